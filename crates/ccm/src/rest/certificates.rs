//! `/x509-credentials`

use axum::extract::State;
use axum::http::StatusCode;
use rest::{Caller, Created, Error, Json, Parameters, Path};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Api, Listed, StateBody, change, credentials_id, filter};
use crate::store::X509;
use crate::x509::Wish;

/// A certificate to issue.
#[derive(Deserialize, Default, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NewX509Body {
    /// 1 to 64 characters; that of the request, or the credentials' id, when absent.
    common_name: Option<String>,
    /// How long it is valid, in seconds: 60 to `ccm.certificate_ttl_max_s`; `ccm.certificate_ttl_s` when absent.
    ttl_seconds: Option<u64>,
    /// A PKCS#10 request in PEM: the device keeps its key. When absent, a key (ECDSA P-256) is made here.
    certificate_signing_request: Option<String>,
}

/// A certificate that was issued. Its private key, if it was made here, is told now and never again.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct IssuedX509 {
    #[serde(flatten)]
    credentials: X509,
    /// PEM.
    certificate: String,
    /// PEM: the client's certificate, the tenant's authority, the platform's root.
    certificate_chain: String,
    /// PEM (PKCS#8).
    #[serde(skip_serializing_if = "Option::is_none")]
    private_key: Option<String>,
}

/// A certificate with its text.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct X509WithText {
    #[serde(flatten)]
    credentials: X509,
    /// PEM, if it was issued here.
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<String>,
}

/// Lists the tenant's X.509 credentials, the oldest first, as an array.
#[utoipa::path(
    get, path = "/ccm/api/v1/x509-credentials", tag = "x509 credentials",
    operation_id = "listX509Credentials",
    params(
        ("state" = Option<Vec<crate::state::State>>, Query, description = "Only those of these states; repeated or by comma."),
        ("offset" = Option<u32>, Query, description = "How many to skip; 0."),
        ("limit" = Option<u32>, Query, description = "How many to return at most, 1 to 1000; 1000."),
    ),
    responses(
        (status = 200, body = Vec<X509>, headers(("X-Total-Count" = i64, description = "How many there are in all."))),
        (status = 400, body = rest::ErrorBody),
    ),
)]
pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    parameters: Parameters,
) -> Result<Listed<X509>, Error> {
    let (total, content) = api.store().list(&caller.tenant, &filter(&parameters)?).await?;
    Ok(Listed { total, content })
}

/// Issues a certificate to a client, by the tenant's own authority, which is made with the first.
#[utoipa::path(
    post, path = "/ccm/api/v1/x509-credentials", tag = "x509 credentials",
    operation_id = "issueX509Credentials", request_body = Option<NewX509Body>,
    responses(
        (status = 201, body = IssuedX509, headers(("Location" = String, description = "Their path."))),
        (status = 400, body = rest::ErrorBody),
        (status = 409, body = rest::ErrorBody, description = "The tenant's own authority is suspended."),
        (status = 429, body = rest::ErrorBody),
    ),
)]
pub(super) async fn issue(
    State(api): State<Api>,
    caller: Caller,
    body: Option<Json<NewX509Body>>,
) -> Result<Created<IssuedX509>, Error> {
    let Json(body) = body.unwrap_or_default();
    let wish = Wish {
        common_name: body.common_name,
        ttl_s: body.ttl_seconds,
        signing_request: body.certificate_signing_request,
    };
    let issued = api.issue(change(&caller), wish).await?;
    let location = format!("/ccm/api/v1/x509-credentials/{}", issued.credentials.id);
    let body = IssuedX509 {
        credentials: issued.credentials,
        certificate: issued.certificate.pem(),
        certificate_chain: issued.chain,
        private_key: issued.private_key,
    };
    Ok(Created { location, body })
}

/// One of the tenant's X.509 credentials.
#[utoipa::path(
    get, path = "/ccm/api/v1/x509-credentials/{credentialsId}", tag = "x509 credentials",
    operation_id = "getX509Credentials",
    params(("credentialsId" = String, Path, description = "Their id.")),
    responses((status = 200, body = X509WithText), (status = 404, body = rest::ErrorBody)),
)]
pub(super) async fn get(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<X509WithText>, Error> {
    let id = credentials_id(id)?;
    let credentials = api.store().get(&caller.tenant, id).await?;
    let certificate = api.certificate_pem(&caller.tenant, id).await?;
    Ok(Json(X509WithText { credentials, certificate }))
}

/// Deletes X.509 credentials: a certificate that was issued here is refused from now on. Clients that are connected with it are
/// disconnected.
#[utoipa::path(
    delete, path = "/ccm/api/v1/x509-credentials/{credentialsId}", tag = "x509 credentials",
    operation_id = "deleteX509Credentials",
    params(
        ("credentialsId" = String, Path, description = "Their id."),
        ("forget" = Option<bool>, Query, description = "Needed for a certificate of a foreign authority, which is registered again when it is next used."),
    ),
    responses(
        (status = 204), (status = 404, body = rest::ErrorBody),
        (status = 409, body = rest::ErrorBody, description = "A certificate of a foreign authority, without forget=true."),
    ),
)]
pub(super) async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    parameters: Parameters,
) -> Result<StatusCode, Error> {
    let forget = parameters.one("forget")?.unwrap_or(false);
    api.delete_x509(change(&caller), credentials_id(id)?, forget).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Moves X.509 credentials to another state. Clients that are connected with them are disconnected when they may no longer be.
#[utoipa::path(
    put, path = "/ccm/api/v1/x509-credentials/{credentialsId}/state", tag = "x509 credentials",
    operation_id = "setX509CredentialsState",
    params(("credentialsId" = String, Path, description = "Their id.")), request_body = StateBody,
    responses(
        (status = 200, body = X509),
        (status = 400, body = rest::ErrorBody), (status = 404, body = rest::ErrorBody),
        (status = 409, body = rest::ErrorBody, description = "Their state does not lead there."),
    ),
)]
pub(super) async fn set_state(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<StateBody>,
) -> Result<Json<X509>, Error> {
    Ok(Json(api.transit(change(&caller), credentials_id(id)?, body.state).await?))
}
