//! `/basic-credentials`

use axum::extract::State;
use axum::http::StatusCode;
use ism::Secret;
use rest::{Caller, Created, Error, Json, Parameters, Path};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Api, Listed, StateBody, change, credentials_id, filter};
use crate::basic::NewBasic;
use crate::store::Basic;

/// Credentials to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewBasicBody {
    /// 1 to 128 characters, unique in the tenant, without `@<tenant>`.
    username: String,
    /// At least 8 characters and at most 256 bytes; made here when absent, which is safer and faster.
    password: Option<String>,
}

/// A password to set.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PasswordBody {
    /// At least 8 characters and at most 256 bytes; made here when absent.
    password: Option<String>,
}

/// Credentials whose password was set. If it was made here, it is told now and never again.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct BasicWithLogin {
    #[serde(flatten)]
    credentials: Basic,
    /// What a device logs in with: the user name, `@` and the tenant.
    login: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<String>,
}

fn with_login(caller: &Caller, made: NewBasic) -> BasicWithLogin {
    let NewBasic { credentials, password } = made;
    BasicWithLogin { login: format!("{}@{}", credentials.username, caller.tenant), credentials, password }
}

/// Lists the tenant's basic credentials, the oldest first, as an array.
#[utoipa::path(
    get, path = "/ccm/api/v1/basic-credentials", tag = "basic credentials",
    operation_id = "listBasicCredentials",
    params(
        ("state" = Option<Vec<crate::state::State>>, Query, description = "Only those of these states; repeated or by comma."),
        ("offset" = Option<u32>, Query, description = "How many to skip; 0."),
        ("limit" = Option<u32>, Query, description = "How many to return at most, 1 to 1000; 1000."),
    ),
    responses(
        (status = 200, body = Vec<Basic>, headers(("X-Total-Count" = i64, description = "How many there are in all."))),
        (status = 400, body = rest::ErrorBody),
    ),
)]
pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    parameters: Parameters,
) -> Result<Listed<Basic>, Error> {
    let (total, content) = api.store().list(&caller.tenant, &filter(&parameters)?).await?;
    Ok(Listed { total, content })
}

/// Makes basic credentials.
#[utoipa::path(
    post, path = "/ccm/api/v1/basic-credentials", tag = "basic credentials",
    operation_id = "createBasicCredentials", request_body = NewBasicBody,
    responses(
        (status = 201, body = BasicWithLogin, headers(("Location" = String, description = "Their path."))),
        (status = 400, body = rest::ErrorBody),
        (status = 409, body = rest::ErrorBody, description = "The user name is taken."),
        (status = 429, body = rest::ErrorBody), (status = 503, body = rest::ErrorBody),
    ),
)]
pub(super) async fn create(
    State(api): State<Api>,
    caller: Caller,
    Json(body): Json<NewBasicBody>,
) -> Result<Created<BasicWithLogin>, Error> {
    let made = api.create_basic(&caller.tenant, &body.username, body.password.map(Secret::from)).await?;
    let location = format!("/ccm/api/v1/basic-credentials/{}", made.credentials.id);
    Ok(Created { location, body: with_login(&caller, made) })
}

/// One of the tenant's basic credentials, without its password.
#[utoipa::path(
    get, path = "/ccm/api/v1/basic-credentials/{credentialsId}", tag = "basic credentials",
    operation_id = "getBasicCredentials",
    params(("credentialsId" = String, Path, description = "Their id.")),
    responses((status = 200, body = Basic), (status = 404, body = rest::ErrorBody)),
)]
pub(super) async fn get(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Basic>, Error> {
    Ok(Json(api.store().get(&caller.tenant, credentials_id(id)?).await?))
}

/// Deletes basic credentials. Clients that are connected with them are disconnected.
#[utoipa::path(
    delete, path = "/ccm/api/v1/basic-credentials/{credentialsId}", tag = "basic credentials",
    operation_id = "deleteBasicCredentials",
    params(("credentialsId" = String, Path, description = "Their id.")),
    responses((status = 204), (status = 404, body = rest::ErrorBody)),
)]
pub(super) async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Error> {
    api.delete::<Basic>(change(&caller), credentials_id(id)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Moves basic credentials to another state. Clients that are connected with them are disconnected when they may no longer be.
#[utoipa::path(
    put, path = "/ccm/api/v1/basic-credentials/{credentialsId}/state", tag = "basic credentials",
    operation_id = "setBasicCredentialsState",
    params(("credentialsId" = String, Path, description = "Their id.")), request_body = StateBody,
    responses(
        (status = 200, body = Basic),
        (status = 400, body = rest::ErrorBody), (status = 404, body = rest::ErrorBody),
        (status = 409, body = rest::ErrorBody, description = "Their state does not lead there."),
    ),
)]
pub(super) async fn set_state(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<StateBody>,
) -> Result<Json<Basic>, Error> {
    Ok(Json(api.transit(change(&caller), credentials_id(id)?, body.state).await?))
}

/// Sets a new password. Clients that are connected with the old one are disconnected.
#[utoipa::path(
    put, path = "/ccm/api/v1/basic-credentials/{credentialsId}/password", tag = "basic credentials",
    operation_id = "setBasicCredentialsPassword",
    params(("credentialsId" = String, Path, description = "Their id.")), request_body = Option<PasswordBody>,
    responses(
        (status = 200, body = BasicWithLogin),
        (status = 400, body = rest::ErrorBody), (status = 404, body = rest::ErrorBody),
        (status = 409, body = rest::ErrorBody, description = "The credentials are revoked."),
        (status = 503, body = rest::ErrorBody),
    ),
)]
pub(super) async fn set_password(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    body: Option<Json<PasswordBody>>,
) -> Result<Json<BasicWithLogin>, Error> {
    let Json(body) = body.unwrap_or_default();
    let wish = body.password.map(Secret::from);
    let made = api.set_password(change(&caller), credentials_id(id)?, wish).await?;
    Ok(Json(with_login(&caller, made)))
}
