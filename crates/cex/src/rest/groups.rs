//! `/groups`: names of endpoint filters in topics.

use axum::extract::State;
use axum::http::StatusCode;
use ids::{ApplicationName, CommandType};
use rest::{Caller, Json, Page, PageOf, Path};
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Api;
use crate::error::Error;
use crate::topics::{Group, group_name};

/// What a group is.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct GroupBody {
    /// The endpoint filter (epr): whoever matches it when a command comes is in the group.
    filter_id: Uuid,
    /// The filter's application.
    #[schema(value_type = String)]
    application_name: ApplicationName,
}

impl Api {
    /// A group of an application that the caller reaches.
    async fn group(&self, caller: &Caller, group: &CommandType) -> Result<Group, rest::Error> {
        let found = self.topics.registers().group(&caller.tenant, group).await?;
        let found = found.ok_or(Error::Unknown("group"))?;
        let application = ApplicationName::parse(&found.application_name);
        caller.check_application(&application.map_err(rest::Error::internal)?)?;
        Ok(found)
    }
}

/// Names an endpoint filter: who may command publishes to `{groupName}/request` to command all endpoints that match, and hears of
/// each result on `{groupName}/response`. The name is the type of the commands.
///
/// The id of a filter is a name by itself, for those who may command in all applications of the tenant.
#[utoipa::path(
    put, path = "/cex/api/v1/groups/{groupName}", tag = "commands over topics",
    params(("groupName" = String, Path, description =
        "1 to 64 characters out of A-Z a-z 0-9 - _ ~, no UUID, and neither `cmd` nor `kp1`.")),
    request_body = GroupBody,
    responses(
        (status = 200, body = Group), (status = 400, body = rest::ErrorBody), (status = 403, body = rest::ErrorBody),
        (status = 404, body = rest::ErrorBody, description = "No such application."),
    ),
)]
pub(super) async fn put(
    State(api): State<Api>,
    caller: Caller,
    Path(name): Path<String>,
    Json(body): Json<GroupBody>,
) -> Result<Json<Group>, rest::Error> {
    let group = group_name(&name)?;
    if Uuid::try_parse(&name).is_ok() {
        return Err(rest::Error::bad_request(
            "the name is the id of a filter, which is a name by itself: choose another",
        ));
    }
    caller.check_application(&body.application_name)?;
    api.application(&caller, &body.application_name).await?;
    let filter_id = body.filter_id.to_string();
    let (registers, reach) = (api.topics.registers(), caller.applications());
    registers.put_group(&caller.tenant, &group, &filter_id, &body.application_name, reach).await?;
    Ok(Json(api.group(&caller, &group).await?))
}

/// Lists the groups of the tenant, by name.
#[utoipa::path(
    get, path = "/cex/api/v1/groups", tag = "commands over topics", params(Page),
    responses(
        (status = 200, body = PageOf<Group>), (status = 400, body = rest::ErrorBody),
        (status = 403, body = rest::ErrorBody),
    ),
)]
pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    page: Page,
) -> Result<Json<PageOf<Group>>, rest::Error> {
    let part = (page.offset.into(), page.limit.into());
    let (total_elements, content) =
        api.topics.registers().groups(&caller.tenant, caller.applications(), part).await?;
    Ok(Json(PageOf { total_elements, content }))
}

/// One group.
#[utoipa::path(
    get, path = "/cex/api/v1/groups/{groupName}", tag = "commands over topics",
    params(("groupName" = String, Path, description = "Its name.")),
    responses(
        (status = 200, body = Group), (status = 400, body = rest::ErrorBody), (status = 403, body = rest::ErrorBody),
        (status = 404, body = rest::ErrorBody),
    ),
)]
pub(super) async fn get(
    State(api): State<Api>,
    caller: Caller,
    Path(group): Path<CommandType>,
) -> Result<Json<Group>, rest::Error> {
    Ok(Json(api.group(&caller, &group).await?))
}

/// Takes the name from the filter. Commands that were invoked go their way.
#[utoipa::path(
    delete, path = "/cex/api/v1/groups/{groupName}", tag = "commands over topics",
    params(("groupName" = String, Path, description = "Its name.")),
    responses(
        (status = 204, description = "It is gone."), (status = 400, body = rest::ErrorBody),
        (status = 403, body = rest::ErrorBody), (status = 404, body = rest::ErrorBody),
    ),
)]
pub(super) async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Path(group): Path<CommandType>,
) -> Result<StatusCode, rest::Error> {
    api.group(&caller, &group).await?;
    api.topics.registers().remove_group(&caller.tenant, &group).await?;
    Ok(StatusCode::NO_CONTENT)
}
