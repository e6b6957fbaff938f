//! Single commands, and the commands of single endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use ids::{CommandType, EndpointId};
use rest::{Caller, Error, ErrorBody, Json, Parameters, Path, Stopping};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Api, CommandDescriptor, reaches};
use crate::domain::{Command, CommandName, Lane};
use crate::error;
use crate::ledger::Cancelled;

/// Endpoints in one request for the commands of each.
const LISTED_ENDPOINTS_MAX: usize = 100;
/// Commands of each endpoint in such a list.
const LISTED_COMMANDS_DEFAULT: u16 = 20;
/// Likewise.
const LISTED_COMMANDS_MAX: u16 = 500;
/// Commands in such a list.
const LISTED_MAX: usize = 5_000;
/// Endpoints in one request for the last commands.
const LAST_ENDPOINTS_MAX: usize = 1_000;
/// Command types in one request.
const TYPES_MAX: usize = 100;
/// How much longer than a push may take, a caller who cancels waits for its end.
const CANCEL_SLACK: Duration = Duration::from_secs(3);
/// The reason that stands at what is cancelled.
const CANCELLED_BY_CALLER: &str = "cancelled over REST";

/// The commands of an endpoint.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct EndpointCommands {
    endpoint_id: String,
    commands: Vec<CommandDescriptor>,
}

/// Endpoints and command types.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct LastCommandsRequest {
    /// 1 to 1000.
    #[schema(value_type = Vec<String>)]
    endpoint_ids: Vec<EndpointId>,
    /// Up to 100; none: all types.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    command_types: Option<Vec<CommandType>>,
}

/// One command, with its whole life.
#[utoipa::path(
    get, path = "/cex/api/v1/endpoints/{endpointId}/commands/{commandType}/{commandId}", tag = "commands",
    params(
        ("endpointId" = String, Path, description = "The endpoint."),
        ("commandType" = String, Path, description = "The command's type."),
        ("commandId" = i32, Path, description = "The command's id."),
    ),
    responses((status = 200, body = CommandDescriptor), (status = 404, body = ErrorBody)),
)]
pub(super) async fn get(
    State(api): State<Api>,
    caller: Caller,
    Path((endpoint_id, command_type, command_id)): Path<(EndpointId, CommandType, i32)>,
) -> Result<Json<CommandDescriptor>, Error> {
    let name = CommandName { lane: lane(&caller, endpoint_id, command_type), command_id };
    let command = find(&api, &caller, &name).await?;
    Ok(Json(CommandDescriptor::from(&command)))
}

/// Cancels a command that is outstanding.
///
/// 204 is a promise: from then on no device gets it. While a push is under way that may still reach the device, the answer
/// waits for its end; when that takes too long it is 202: the command will be `CANCELLED`, unless the device still reports a
/// result. Cancelling again does no harm.
#[utoipa::path(
    delete, path = "/cex/api/v1/endpoints/{endpointId}/commands/{commandType}/{commandId}", tag = "commands",
    params(
        ("endpointId" = String, Path, description = "The endpoint."),
        ("commandType" = String, Path, description = "The command's type."),
        ("commandId" = i32, Path, description = "The command's id."),
    ),
    responses(
        (status = 204, description = "It is cancelled, and will not be delivered."),
        (status = 202, body = CommandDescriptor, description = "It will be cancelled; a push may still deliver it."),
        (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "It has ended already."),
    ),
)]
pub(super) async fn cancel(
    State(api): State<Api>,
    caller: Caller,
    stopping: Stopping,
    Path((endpoint_id, command_type, command_id)): Path<(EndpointId, CommandType, i32)>,
) -> Result<Response, Error> {
    let name = CommandName { lane: lane(&caller, endpoint_id, command_type), command_id };
    find(&api, &caller, &name).await?;
    let mut outcome = api.ledger.cancel(&name, CANCELLED_BY_CALLER).await?;
    if let Cancelled::Awaited(until) = outcome {
        let max = Duration::from_millis(api.config.push_timeout_ms) + CANCEL_SLACK;
        let left = (until - Utc::now()).to_std().unwrap_or_default() + CANCEL_SLACK;
        tokio::select! {
            ended = api.invoker.ended(&name, left.min(max), false) => drop(ended?),
            () = stopping.begun() => {}
        }
        outcome = api.ledger.cancel(&name, CANCELLED_BY_CALLER).await?;
    }
    match outcome {
        Cancelled::Confirmed => Ok(StatusCode::NO_CONTENT.into_response()),
        Cancelled::Awaited(_) => {
            let command = find(&api, &caller, &name).await?;
            Ok((StatusCode::ACCEPTED, Json(CommandDescriptor::from(&command))).into_response())
        }
        Cancelled::Ended(state) => Err(Error::conflict(format!(
            "command {name} has ended as {}, which is final; there is nothing to cancel",
            state.as_str()
        ))),
        Cancelled::Unknown => Err(error::Error::UnknownCommand(name).into()),
    }
}

/// The latest command of a type.
#[utoipa::path(
    get, path = "/cex/api/v1/endpoints/{endpointId}/commands/{commandType}/last", tag = "commands",
    params(
        ("endpointId" = String, Path, description = "The endpoint."),
        ("commandType" = String, Path, description = "The command's type."),
    ),
    responses(
        (status = 200, body = CommandDescriptor),
        (status = 404, body = ErrorBody, description = "No command of this type was ever invoked on the endpoint."),
    ),
)]
pub(super) async fn last(
    State(api): State<Api>,
    caller: Caller,
    Path((endpoint_id, command_type)): Path<(EndpointId, CommandType)>,
) -> Result<Json<CommandDescriptor>, Error> {
    let lane = lane(&caller, endpoint_id, command_type);
    let command = api.ledger.last(&lane).await?.ok_or_else(|| {
        Error::not_found(format!(
            "endpoint {} has no command of the type {}",
            lane.endpoint_id, lane.command_type
        ))
    })?;
    caller.check_application(&command.application)?;
    Ok(Json(CommandDescriptor::from(&command)))
}

/// The commands of some endpoints, newest first.
///
/// Every endpoint that is asked for is in the answer; one that is unknown, or out of the caller's reach, without commands.
#[utoipa::path(
    get, path = "/cex/api/v1/endpoints/commands", tag = "commands",
    params(
        ("endpointId" = Vec<String>, Query, description = "1 to 100 endpoints; repeated or by comma."),
        ("commandTypes" = Option<Vec<String>>, Query, description = "Only these types, up to 100."),
        ("limit" = Option<u16>, Query,
            description = "Commands of each endpoint: 1 to 500, default 20; 5000 for all endpoints together."),
    ),
    responses((status = 200, body = Vec<EndpointCommands>), (status = 400, body = ErrorBody)),
)]
pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    parameters: Parameters,
) -> Result<Json<Vec<EndpointCommands>>, Error> {
    let endpoints = distinct("endpointId", parameters.list("endpointId")?, LISTED_ENDPOINTS_MAX)?;
    let types = types("commandTypes", parameters.list("commandTypes")?)?;
    let limit = parameters.one::<u16>("limit")?.unwrap_or(LISTED_COMMANDS_DEFAULT);
    if !(1..=LISTED_COMMANDS_MAX).contains(&limit) {
        return Err(Error::bad_request(format!("limit must be an integer from 1 to {LISTED_COMMANDS_MAX}")));
    }
    if endpoints.len() * usize::from(limit) > LISTED_MAX {
        return Err(Error::bad_request(format!(
            "endpoints times limit may be {LISTED_MAX}: ask for fewer endpoints, or with a smaller limit"
        )));
    }
    let _permit = api.list_permit().await?;
    let commands = api.ledger.of_endpoints(&caller.tenant, &endpoints, &types, limit.into()).await?;
    Ok(Json(by_endpoint(&caller, &endpoints, &commands)))
}

/// The latest command of each type of some endpoints.
///
/// Every endpoint that is asked for is in the answer; one that is unknown, or out of the caller's reach, without commands.
#[utoipa::path(
    post, path = "/cex/api/v1/endpoints/commands/last", tag = "commands", request_body = LastCommandsRequest,
    responses((status = 200, body = Vec<EndpointCommands>), (status = 400, body = ErrorBody)),
)]
pub(super) async fn last_of_list(
    State(api): State<Api>,
    caller: Caller,
    Json(request): Json<LastCommandsRequest>,
) -> Result<Json<Vec<EndpointCommands>>, Error> {
    let endpoints = distinct("endpointIds", request.endpoint_ids, LAST_ENDPOINTS_MAX)?;
    let types = types("commandTypes", request.command_types.unwrap_or_default())?;
    let _permit = api.list_permit().await?;
    let commands = api.ledger.last_of(&caller.tenant, &endpoints, &types).await?;
    Ok(Json(by_endpoint(&caller, &endpoints, &commands)))
}

fn lane(caller: &Caller, endpoint_id: EndpointId, command_type: CommandType) -> Lane {
    Lane { tenant: caller.tenant.clone(), endpoint_id, command_type }
}

/// A command of the caller's tenant and reach.
async fn find(api: &Api, caller: &Caller, name: &CommandName) -> Result<Command, Error> {
    let found = api.ledger.get(name).await?;
    let command = found.ok_or_else(|| error::Error::UnknownCommand(name.clone()))?;
    caller.check_application(&command.application)?;
    Ok(command)
}

/// The endpoints in the order given, each once.
fn distinct(name: &str, given: Vec<EndpointId>, max: usize) -> Result<Vec<EndpointId>, Error> {
    let mut seen = BTreeSet::new();
    let endpoints: Vec<EndpointId> = given.into_iter().filter(|id| seen.insert(id.clone())).collect();
    if !(1..=max).contains(&endpoints.len()) {
        return Err(Error::bad_request(format!("{name} must name 1 to {max} endpoints")));
    }
    Ok(endpoints)
}

pub(super) fn types(name: &str, given: Vec<CommandType>) -> Result<Vec<CommandType>, Error> {
    if given.len() > TYPES_MAX {
        return Err(Error::bad_request(format!("{name} may name {TYPES_MAX} types")));
    }
    Ok(given)
}

/// What of the commands the caller may see, by endpoint.
fn by_endpoint(caller: &Caller, endpoints: &[EndpointId], commands: &[Command]) -> Vec<EndpointCommands> {
    let mut found: BTreeMap<&EndpointId, Vec<CommandDescriptor>> = BTreeMap::new();
    for command in commands.iter().filter(|command| reaches(caller, &command.application)) {
        found.entry(&command.name.lane.endpoint_id).or_default().push(CommandDescriptor::from(command));
    }
    let mut of = |endpoint_id: &EndpointId| EndpointCommands {
        endpoint_id: endpoint_id.to_string(),
        commands: found.remove(endpoint_id).unwrap_or_default(),
    };
    endpoints.iter().map(&mut of).collect()
}
