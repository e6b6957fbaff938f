//! `/commanders`: clients that may command over topics.

use axum::extract::State;
use axum::http::StatusCode;
use ids::ApplicationName;
use rest::{Caller, Json, Page, PageOf, Path};
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Api;
use crate::error::Error;
use crate::topics::Commander;

/// Applications that are named for one commander.
const APPLICATIONS_MAX: usize = 1_000;

/// What a commander may command.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CommanderBody {
    /// The applications whose endpoints may be commanded, 1 to 1,000; absent: all of the tenant.
    #[schema(value_type = Option<Vec<String>>)]
    application_names: Option<Vec<ApplicationName>>,
}

impl Api {
    async fn commander(&self, caller: &Caller, id: Uuid) -> Result<Commander, rest::Error> {
        let found = self.topics.registers().commander(&caller.tenant, &id.to_string()).await?;
        Ok(found.ok_or(Error::Unknown("commander"))?)
    }
}

/// Lets clients with these credentials command: publish to `cmd/<thing>/req` and `<group>/request`, and subscribe to where
/// the results come.
///
/// Connections that stand keep the subscriptions that they have; what they publish is checked each time.
#[utoipa::path(
    put, path = "/cex/api/v1/commanders/{credentialsId}", tag = "commands over topics",
    params(("credentialsId" = Uuid, Path, description = "The id of client credentials (ccm).")),
    request_body = CommanderBody,
    responses(
        (status = 200, body = Commander), (status = 400, body = rest::ErrorBody),
        (status = 403, body = rest::ErrorBody),
    ),
)]
pub(super) async fn put(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<Uuid>,
    Json(body): Json<CommanderBody>,
) -> Result<Json<Commander>, rest::Error> {
    let names = body.application_names.as_deref();
    if names.is_some_and(|names| names.is_empty() || names.len() > APPLICATIONS_MAX) {
        let message =
            format!("applicationNames must hold 1 to {APPLICATIONS_MAX} names, or be left out to allow all");
        return Err(rest::Error::bad_request(message));
    }
    api.topics.registers().put_commander(&caller.tenant, &id.to_string(), names).await?;
    Ok(Json(api.commander(&caller, id).await?))
}

/// Lists who may command over topics.
#[utoipa::path(
    get, path = "/cex/api/v1/commanders", tag = "commands over topics", params(Page),
    responses(
        (status = 200, body = PageOf<Commander>), (status = 400, body = rest::ErrorBody),
        (status = 403, body = rest::ErrorBody),
    ),
)]
pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    page: Page,
) -> Result<Json<PageOf<Commander>>, rest::Error> {
    let part = (page.offset.into(), page.limit.into());
    let (total_elements, content) = api.topics.registers().commanders(&caller.tenant, part).await?;
    Ok(Json(PageOf { total_elements, content }))
}

/// One that may command.
#[utoipa::path(
    get, path = "/cex/api/v1/commanders/{credentialsId}", tag = "commands over topics",
    params(("credentialsId" = Uuid, Path, description = "The id of client credentials (ccm).")),
    responses(
        (status = 200, body = Commander), (status = 400, body = rest::ErrorBody),
        (status = 403, body = rest::ErrorBody), (status = 404, body = rest::ErrorBody),
    ),
)]
pub(super) async fn get(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<Uuid>,
) -> Result<Json<Commander>, rest::Error> {
    Ok(Json(api.commander(&caller, id).await?))
}

/// Takes the right to command away: the next command is refused.
///
/// Connections that stand keep the subscriptions that they have: revoke the credentials to end them.
#[utoipa::path(
    delete, path = "/cex/api/v1/commanders/{credentialsId}", tag = "commands over topics",
    params(("credentialsId" = Uuid, Path, description = "The id of client credentials (ccm).")),
    responses(
        (status = 204, description = "They may not command any more."), (status = 400, body = rest::ErrorBody),
        (status = 403, body = rest::ErrorBody), (status = 404, body = rest::ErrorBody),
    ),
)]
pub(super) async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<Uuid>,
) -> Result<StatusCode, rest::Error> {
    if !api.topics.registers().remove_commander(&caller.tenant, &id.to_string()).await? {
        return Err(Error::Unknown("commander").into());
    }
    Ok(StatusCode::NO_CONTENT)
}
