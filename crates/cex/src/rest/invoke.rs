//! `POST /endpoints/{endpointId}/commands/{commandType}`

pub(super) mod request;

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ids::{CommandType, EndpointId};
use rest::{Caller, Error, ErrorBody, Json, Parameters, Path, Stopping};

use super::view::{location, to_json};
use super::{Api, CommandDescriptor};
use crate::domain::{Command, CommandName, Lane, NewCommand, State as CommandState};
use crate::error;
use crate::ledger::Invoked;
use request::{Request, payload};

/// The status code of the device's result.
const STATUS_CODE: &str = "bandar-command-status-code";
/// Whether the answer is about a command that an earlier request with the same key made.
pub(super) const REPLAYED: &str = "idempotency-replayed";

/// Invokes a command on an endpoint.
///
/// Whatever the status of the answer, if it is 200 or 202 the command is in the ledger and survives any restart. 200 means
/// that the device has reported a result in time: the body is the result's payload (a bare string as a JSON string, nothing
/// when the device sent none), and `Bandar-Command-Status-Code` is its status code, also one that speaks of failure. 202 means
/// that there is no result: it is still awaited, or the command has ended without (`deliveryState` in the body says which).
#[utoipa::path(
    post, path = "/cex/api/v1/endpoints/{endpointId}/commands/{commandType}", tag = "commands",
    params(
        ("endpointId" = String, Path, description = "The endpoint."),
        ("commandType" = String, Path, description = "The command's type."),
        ("awaitTimeout" = Option<u32>, Query,
            description = "Seconds to wait for the result; 0: answer 202 at once. At most `cex.await_timeout_max_s` (60), default `cex.await_timeout_s` (5)."),
        ("commandTtl" = Option<u64>, Query,
            description = "Milliseconds for which the command is offered; 0: tried once, now. At most `cex.command_ttl_max_ms` (31 days), default `cex.command_ttl_ms` (60000)."),
        ("waitTimeout" = Option<u32>, Query, description = "The older name of `awaitTimeout`."),
        ("commandRetentionTtl" = Option<u64>, Query, description = "The older form of `commandTtl`, in hours."),
        ("Idempotency-Key" = Option<String>, Header,
            description = "1 to 255 visible ASCII characters. A repeated request with the same key is about the command of the first."),
    ),
    request_body(description = "What goes to the device: any JSON, or text (UTF-8). Empty: no payload.",
        content((Value = "application/json"), (String = "text/plain"))),
    responses(
        (status = 200, body = Value, description = "The payload of the device's result.", headers(
            ("Location" = String, description = "The command's path."),
            ("Bandar-Command-Status-Code" = i32, description = "The status code of the device's result."),
            ("Idempotency-Replayed" = bool, description = "`true` when an earlier request made the command."))),
        (status = 202, body = CommandDescriptor, description = "The command is in the ledger; there is no result.", headers(
            ("Location" = String, description = "The command's path."),
            ("Idempotency-Replayed" = bool, description = "`true` when an earlier request made the command."))),
        (status = 400, body = ErrorBody, description = "A parameter or the payload is wrong, or over its limit."),
        (status = 404, body = ErrorBody, description = "The tenant has no such endpoint."),
        (status = 409, body = ErrorBody, description = "The key belongs to another request."),
        (status = 413, body = ErrorBody, description = "The body is longer than `http.body_bytes_max`."),
        (status = 415, body = ErrorBody, description = "The content type is another."),
        (status = 429, body = ErrorBody, description = "The endpoint has `cex.outstanding_per_endpoint_max` outstanding commands."),
        (status = 503, body = ErrorBody, description = "The endpoint register does not answer; nothing was invoked."),
    ),
)]
pub(super) async fn invoke(
    State(api): State<Api>,
    caller: Caller,
    stopping: Stopping,
    Path((endpoint_id, command_type)): Path<(EndpointId, CommandType)>,
    parameters: Parameters,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Error> {
    let request = Request::read(&parameters, &api.config)?;
    let payload = payload(&headers, body)?;
    let lane = Lane { tenant: caller.tenant.clone(), endpoint_id, command_type };
    let idempotency = request.idempotency(&headers, &lane, payload.as_ref())?;
    api.invoker.check(payload.as_ref(), request.ttl)?;
    let correlation_id = caller.correlation_id.as_str();
    let application = api.invoker.application_of(&caller.tenant, &lane.endpoint_id, correlation_id).await?;
    caller.check_application(&application)?;
    let command = NewCommand {
        lane,
        application,
        payload,
        ttl: request.ttl,
        idempotency,
        batch: None,
        response_topic: None,
    };
    let (name, is_repeated) = enter(&api, command).await?;
    let within = request.await_for;
    let command = tokio::select! {
        ended = ended(&api, &name, within, is_repeated) => ended,
        () = stopping.begun() => Ok(None),
    };
    let command = match command {
        Ok(None) => api.ledger.get(&name).await.map_err(error::Error::from),
        known => known,
    };
    let command = command.unwrap_or_else(|error| {
        tracing::warn!(%error, command = %name, "the command is in the ledger, which cannot be read now");
        None
    });
    Ok(answer(command.as_ref(), &name, is_repeated))
}

/// Writes the command into the ledger, or finds the one that the key belongs to.
async fn enter(api: &Api, command: NewCommand) -> Result<(CommandName, bool), Error> {
    let endpoint_id = command.lane.endpoint_id.clone();
    let invoker = api.invoker.clone();
    // A task of its own: a caller who goes away meanwhile must not take the claim to push it with him.
    let entering = tokio::spawn(async move { invoker.invoke(vec![command]).await });
    let invoked = entering.await.map_err(Error::internal)??;
    match invoked.into_iter().next() {
        Some(Invoked::New { name, .. }) => Ok((name, false)),
        Some(Invoked::Repeated { name, .. }) => Ok((name, true)),
        Some(Invoked::KeyReused) => Err(error::Error::KeyReused.into()),
        Some(Invoked::TooMany(outstanding)) => Err(error::Error::TooMany { endpoint_id, outstanding }.into()),
        None => Err(Error::internal(anyhow::anyhow!("the ledger has not answered for a command"))),
    }
}

/// The command once it has ended, or as it is then. One that was made just now and is not waited for is not looked at.
async fn ended(
    api: &Api,
    name: &CommandName,
    within: Duration,
    is_repeated: bool,
) -> Result<Option<Command>, error::Error> {
    if within.is_zero() && !is_repeated {
        return Ok(None);
    }
    api.invoker.ended(name, within, !is_repeated).await.map(Some)
}

/// What is known of a command that is in the ledger; nothing when that cannot be read.
fn answer(command: Option<&Command>, name: &CommandName, is_repeated: bool) -> Response {
    let mut response = match command {
        Some(command) if command.state == CommandState::Executed => executed(command),
        Some(command) => (StatusCode::ACCEPTED, Json(CommandDescriptor::from(command))).into_response(),
        None => StatusCode::ACCEPTED.into_response(),
    };
    let headers = response.headers_mut();
    if let Ok(location) = HeaderValue::try_from(location(name)) {
        headers.insert(header::LOCATION, location);
    }
    if is_repeated {
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

/// The payload of the result.
fn executed(command: &Command) -> Response {
    let mut response = match &command.result {
        Some(payload) => {
            let content_type = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
            (content_type, to_json(payload).get().to_owned()).into_response()
        }
        None => StatusCode::OK.into_response(),
    };
    if let Some(status_code) = command.status_code {
        response.headers_mut().insert(STATUS_CODE, HeaderValue::from(status_code));
    }
    response
}
