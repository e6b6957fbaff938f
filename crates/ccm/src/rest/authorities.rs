//! `/x509-credentials/authorities` and `/certificates/root`

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use rest::{Caller, Created, Error, Json, Parameters, Path};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Api, Pem, StateBody, authority_id, change};
use crate::authorities::RegistrationCode;
use crate::store::Authority;

/// Stands for the own authority that issues now.
const OWN: &str = "own";

/// An authority to register; without it one of the tenant's own is made.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NewAuthorityBody {
    /// The authority's certificate in PEM.
    certificate: String,
    /// A certificate in PEM that the authority issued and whose common name is the registration code.
    verification_certificate: String,
}

/// The code that shows that an authority is the tenant's.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RegistrationCodeBody {
    /// 64 characters, as the common name of a certificate can hold them.
    registration_code: String,
    valid_until: DateTime<Utc>,
}

/// Lists the tenant's authorities, the oldest first, as an array.
#[utoipa::path(
    get, path = "/ccm/api/v1/x509-credentials/authorities", tag = "certificate authorities",
    operation_id = "listAuthorities",
    responses((status = 200, body = Vec<Authority>)),
)]
pub(super) async fn list(State(api): State<Api>, caller: Caller) -> Result<Json<Vec<Authority>>, Error> {
    Ok(Json(api.store().authorities(&caller.tenant).await?))
}

/// Registers an authority that the tenant has already, or, without a body, makes another of its own, which issues from now on.
#[utoipa::path(
    post, path = "/ccm/api/v1/x509-credentials/authorities", tag = "certificate authorities",
    operation_id = "createAuthority", request_body = Option<NewAuthorityBody>,
    responses(
        (status = 201, body = Authority, headers(("Location" = String, description = "Its path."))),
        (status = 400, body = rest::ErrorBody, description = "No usable authority, or no proof that it is the tenant's."),
        (status = 409, body = rest::ErrorBody, description = "An authority of this name is registered already."),
        (status = 429, body = rest::ErrorBody),
    ),
)]
pub(super) async fn create(
    State(api): State<Api>,
    caller: Caller,
    body: Option<Json<NewAuthorityBody>>,
) -> Result<Created<Authority>, Error> {
    let change = change(&caller);
    let made = match body {
        Some(Json(NewAuthorityBody { certificate, verification_certificate })) => {
            api.register_authority(change, &certificate, &verification_certificate).await?
        }
        None => api.make_authority(change).await?,
    };
    Ok(Created { location: format!("/ccm/api/v1/x509-credentials/authorities/{}", made.id), body: made })
}

/// The code that is to be the common name of a verification certificate.
#[utoipa::path(
    get, path = "/ccm/api/v1/x509-credentials/authorities/registration-code", tag = "certificate authorities",
    operation_id = "getRegistrationCode",
    responses((status = 200, body = RegistrationCodeBody)),
)]
pub(super) async fn registration_code(State(api): State<Api>, caller: Caller) -> Json<RegistrationCodeBody> {
    let RegistrationCode { code, valid_until } = api.registration_code(&caller.tenant);
    Json(RegistrationCodeBody { registration_code: code, valid_until })
}

/// One of the tenant's authorities.
#[utoipa::path(
    get, path = "/ccm/api/v1/x509-credentials/authorities/{authorityId}", tag = "certificate authorities",
    operation_id = "getAuthority",
    params(("authorityId" = String, Path, description = "Its id.")),
    responses((status = 200, body = Authority), (status = 404, body = rest::ErrorBody)),
)]
pub(super) async fn get(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Authority>, Error> {
    Ok(Json(api.store().authority(&caller.tenant, authority_id(id)?).await?))
}

/// Deletes an authority. Its clients are disconnected and refused: what an own one issued is deleted with it, what a foreign
/// one issued is revoked and stays refused also when the authority is registered again.
#[utoipa::path(
    delete, path = "/ccm/api/v1/x509-credentials/authorities/{authorityId}", tag = "certificate authorities",
    operation_id = "deleteAuthority",
    params(
        ("authorityId" = String, Path, description = "Its id."),
        ("forget" = Option<bool>, Query, description = "Deletes also what a foreign authority issued: nothing is refused if it is registered again."),
    ),
    responses((status = 204), (status = 404, body = rest::ErrorBody)),
)]
pub(super) async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    parameters: Parameters,
) -> Result<StatusCode, Error> {
    let forget = parameters.one("forget")?.unwrap_or(false);
    api.delete_authority(change(&caller), authority_id(id)?, forget).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Moves an authority to another state: `Suspended` refuses all its clients until it is `Active` again; `Revoked` revokes all it
/// issued, for ever.
#[utoipa::path(
    put, path = "/ccm/api/v1/x509-credentials/authorities/{authorityId}/state", tag = "certificate authorities",
    operation_id = "setAuthorityState",
    params(("authorityId" = String, Path, description = "Its id.")), request_body = StateBody,
    responses(
        (status = 200, body = Authority),
        (status = 400, body = rest::ErrorBody), (status = 404, body = rest::ErrorBody),
        (status = 409, body = rest::ErrorBody, description = "Its state does not lead there."),
    ),
)]
pub(super) async fn set_state(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<StateBody>,
) -> Result<Json<Authority>, Error> {
    Ok(Json(api.transit_authority(change(&caller), authority_id(id)?, body.state).await?))
}

/// The certificate of an authority in PEM; that of an own one is followed by the platform's root.
#[utoipa::path(
    get, path = "/ccm/api/v1/x509-credentials/authorities/{authorityId}/certificate",
    tag = "certificate authorities", operation_id = "getAuthorityCertificate",
    params(("authorityId" = String, Path, description = "Its id, or `own` for the one that issues now.")),
    responses(
        (status = 200, body = String, content_type = "application/x-pem-file"),
        (status = 404, body = rest::ErrorBody),
    ),
)]
pub(super) async fn certificate(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Pem, Error> {
    if id == OWN {
        return Ok(Pem(api.issuing_pem(&caller.tenant).await?));
    }
    let authority = api.store().authority(&caller.tenant, authority_id(id)?).await?;
    Ok(Pem(api.authority_pem(&authority)))
}

/// The platform's root, under which all own authorities are, in PEM. For everybody.
#[utoipa::path(
    get, path = "/ccm/api/v1/certificates/root", tag = "certificate authorities",
    operation_id = "getRootCertificate",
    responses((status = 200, body = String, content_type = "application/x-pem-file")),
)]
pub(super) async fn root(State(api): State<Api>) -> Pem {
    Pem(api.root.certificate.pem())
}
