//! 12/CIP: other services invoke commands over NATS and get the results.
//!
//! The command is in the ledger before anything else; who waits for its end is only in memory. So a caller that repeats a
//! request, because its answer or this process was lost, gets the result of the first: `commandId` is the caller's, and
//! names one command with endpoint and type.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Subject;
use bytes::Bytes;
use ids::{AppVersionName, CommandType, EndpointId};
use ism::cip::{COMMAND_REQUEST, COMMAND_RESULT};
use ism::epmmp::{EP_APP_VERSION_GET_REQUEST, EP_APP_VERSION_GET_RESPONSE};
use ism::subject::instance;
use ism::{
    AppVersionsByEndpointsRequest, AppVersionsByEndpointsResponse, CommandInvocationRequest,
    CommandInvocationResult, Envelope as _, Record as _,
};
use runtime::{Context, LookupError, Subjects, now_ms};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use tracing::Instrument as _;

use crate::config::Config;
use crate::connected::KnownApplications;
use crate::domain::{Command, CommandName, Idempotency, Lane, NewCommand, Payload, State, Ttl};
use crate::error::Error;
use crate::invocation::Invoker;
use crate::ledger::Invoked;

/// How long the endpoint register has to answer.
const REGISTER_PATIENCE: Duration = Duration::from_secs(5);
/// How long beyond its time to live the end of a command is awaited: an attempt that is under way ends before.
const END_SLACK: Duration = Duration::from_secs(60);
/// After a failure of the ledger one who waits for the end of a command asks again.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// What is asked and answered here.
pub(crate) fn subjects(own: Subjects) -> Subjects {
    own.serves(COMMAND_REQUEST)
        // The reply subject that the platform's services give, and the one that 12/CIP recommends.
        .answers(COMMAND_RESULT)
        .tells(COMMAND_RESULT)
        .asks(instance::EPR, EP_APP_VERSION_GET_REQUEST)
}

/// A refusal as the caller gets it: an HTTP status and why.
#[derive(Debug)]
struct Fault(i32, String);

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let refusal = extension::Refusal::from(error);
        Self(i32::from(refusal.status_code), refusal.reason_phrase)
    }
}

/// Answers 12/CIP for as long as the service runs.
pub(crate) async fn start(
    context: &Context,
    config: Arc<Config>,
    invoker: Invoker,
    applications: KnownApplications,
) -> anyhow::Result<()> {
    let mut requests = context
        .subscribe(COMMAND_REQUEST.service(context.instance()), Some(context.instance().as_str()))
        .await?;
    let waiting = Arc::new(Semaphore::new(config.cip_waiting_max.min(Semaphore::MAX_PERMITS)));
    let agent = Arc::new(Agent { context: context.clone(), config, invoker, applications });
    context.spawn("answer 12/CIP", async move {
        while let Some(message) = requests.next().await {
            let request = match CommandInvocationRequest::decode(&message.payload) {
                Ok(request) => request,
                Err(error) => {
                    tracing::warn!(%error, "a command invocation request cannot be read");
                    continue;
                }
            };
            let Ok(permit) = waiting.clone().try_acquire_owned() else {
                let reason = "too many commands are awaited (cex.cip_waiting_max); try again".to_owned();
                agent.refuse(message.reply, &request, Fault(503, reason)).await;
                continue;
            };
            let span = tracing::info_span!("cip", correlation_id = request.correlation_id);
            runtime::trace::adopt(&span, message.headers.as_ref());
            let task = agent.clone().answer(request, message.reply, permit);
            agent.context.task(Box::pin(task.instrument(span)));
        }
        Ok(())
    });
    Ok(())
}

struct Agent {
    context: Context,
    config: Arc<Config>,
    invoker: Invoker,
    applications: KnownApplications,
}

/// A command that is in the ledger.
struct Begun {
    name: CommandName,
    /// It was invoked just now.
    is_new: bool,
    app_version: AppVersionName,
    ttl: Duration,
}

impl Agent {
    async fn answer(
        self: Arc<Self>,
        request: CommandInvocationRequest,
        reply: Option<Subject>,
        _permit: tokio::sync::OwnedSemaphorePermit,
    ) {
        let Some(ttl) = self.time_to_live(&request) else {
            return tracing::debug!("a command invocation request came after its deadline and was dropped");
        };
        let begun = match self.begin(&request, ttl).await {
            Ok(begun) => begun,
            Err(fault) => return self.refuse(reply, &request, fault).await,
        };
        // Who waits no more: its caller repeats the request.
        let stopping = self.context.stopping();
        let Some(ended) = stopping.run_until_cancelled(self.ended(&begun)).await else { return };
        match ended {
            Ok(command) => {
                let result = result(&request, &begun.app_version, &command);
                self.send(reply, result).await;
            }
            Err(fault) => self.refuse(reply, &request, fault).await,
        }
    }

    /// How long the command lives: as long as its caller waits. None: he has ceased to.
    fn time_to_live(&self, request: &CommandInvocationRequest) -> Option<Duration> {
        match request.remaining(now_ms()) {
            None => Some(Duration::from_millis(self.config.command_ttl_ms)),
            Some(left) if left.is_zero() => None,
            Some(left) => Some(left),
        }
    }

    async fn begin(&self, request: &CommandInvocationRequest, ttl: Duration) -> Result<Begun, Fault> {
        let invalid = |error: ids::InvalidId| Fault(400, error.to_string());
        let endpoint_id = EndpointId::parse(&request.endpoint_id).map_err(invalid)?;
        let command_type = CommandType::parse(&request.command_type).map_err(invalid)?;
        let payload = request.payload.clone().map(payload).transpose()?;
        self.invoker.check(payload.as_ref(), Ttl::For(ttl))?;
        let app_version = self.app_version(&request.correlation_id, &endpoint_id).await?;
        let version = self.applications.version(&app_version).await.map_err(|error| match error {
            LookupError::Unknown => Fault(404, format!("unknown application version {app_version}")),
            LookupError::Unavailable(reason) => Fault(503, reason),
        })?;
        let idempotency = idempotency(request, &endpoint_id, &command_type);
        let command = NewCommand {
            lane: Lane { tenant: version.tenant_id.clone(), endpoint_id, command_type },
            application: version.app_name.clone(),
            payload,
            ttl: Ttl::For(ttl),
            idempotency: Some(idempotency),
            batch: None,
            response_topic: None,
        };
        let endpoint_id = command.lane.endpoint_id.clone();
        match self.invoker.invoke(vec![command]).await?.into_iter().next() {
            Some(Invoked::New { name, .. }) => Ok(Begun { name, is_new: true, app_version, ttl }),
            Some(Invoked::Repeated { name }) => Ok(Begun { name, is_new: false, app_version, ttl }),
            Some(Invoked::KeyReused) => {
                let id = request.command_id;
                Err(Fault(
                    409,
                    format!("commandId {id} belongs to a command with another payload; choose another"),
                ))
            }
            Some(Invoked::TooMany(outstanding)) => Err(Error::TooMany { endpoint_id, outstanding }.into()),
            None => Err(Fault(500, "the ledger gave no answer".to_owned())),
        }
    }

    /// The application version of an endpoint (19/EPMMP).
    async fn app_version(
        &self,
        correlation_id: &str,
        endpoint_id: &EndpointId,
    ) -> Result<AppVersionName, Fault> {
        let request = AppVersionsByEndpointsRequest {
            correlation_id: correlation_id.to_owned(),
            timestamp: now_ms(),
            timeout: i64::try_from(REGISTER_PATIENCE.as_millis()).unwrap_or(i64::MAX),
            endpoint_ids: vec![endpoint_id.to_string()],
        };
        let subject = EP_APP_VERSION_GET_REQUEST.at(instance::EPR);
        let headers = runtime::trace::headers();
        let requester = self.context.requester();
        let asking = requester.request(
            subject,
            EP_APP_VERSION_GET_RESPONSE,
            request.encode(),
            headers,
            REGISTER_PATIENCE,
        );
        let unavailable = |error: &dyn std::fmt::Display| {
            Fault(503, format!("the endpoint register cannot be asked now ({error}); try again"))
        };
        let answer = asking.await.map_err(|error| unavailable(&error))?;
        let response =
            AppVersionsByEndpointsResponse::decode(&answer.payload).map_err(|error| unavailable(&error))?;
        if response.status_code >= 500 {
            return Err(unavailable(&response.reason_phrase.unwrap_or_default()));
        }
        let version = response
            .app_versions_to_endpoints
            .iter()
            .find(|(_, endpoints)| endpoints.iter().any(|id| id == endpoint_id.as_str()))
            .and_then(|(version, _)| AppVersionName::parse(version).ok());
        version.ok_or_else(|| Error::UnknownEndpoint(endpoint_id.clone()).into())
    }

    /// Waits until the command has ended.
    async fn ended(&self, begun: &Begun) -> Result<Command, Fault> {
        // A repeated request may be for a command that lives longer than this one's caller waits.
        let within = begun.ttl + END_SLACK;
        let deadline = tokio::time::Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            match self.invoker.ended(&begun.name, left, begun.is_new).await {
                Ok(command) if command.state.is_final() => return Ok(command),
                Ok(_) => {
                    return Err(Fault(408, format!("command {} has not ended in time", begun.name)));
                }
                Err(Error::Database(error)) if !left.is_zero() => {
                    tracing::warn!(%error, "the ledger cannot be asked for the end of a command; trying again");
                    tokio::time::sleep(RETRY_AFTER).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn refuse(&self, reply: Option<Subject>, request: &CommandInvocationRequest, fault: Fault) {
        let Fault(status_code, reason) = fault;
        let result = CommandInvocationResult {
            status_code,
            reason_phrase: Some(reason),
            ..answer_to(request, String::new())
        };
        self.send(reply, result).await;
    }

    async fn send(&self, reply: Option<Subject>, result: CommandInvocationResult) {
        // 12/CIP lets a caller not care.
        let Some(reply) = reply else { return };
        if let Err(error) = self.context.nats().publish(reply, result.encode()).await {
            tracing::warn!(%error, "the result of a command could not be sent; its caller may ask again");
        }
    }
}

fn payload(bytes: Bytes) -> Result<Payload, Fault> {
    if serde_json::from_slice::<serde_json::Value>(&bytes).is_ok() {
        return Ok(Payload::Json(bytes));
    }
    match std::str::from_utf8(&bytes) {
        Ok(_) => Ok(Payload::Text(bytes)),
        Err(error) => {
            let at = error.valid_up_to();
            Err(Fault(400, format!("the payload is neither JSON nor text in UTF-8 (byte {at})")))
        }
    }
}

fn idempotency(
    request: &CommandInvocationRequest,
    endpoint_id: &EndpointId,
    command_type: &CommandType,
) -> Idempotency {
    let key = format!("cip:{endpoint_id}:{command_type}:{}", request.command_id);
    let mut digest = Sha256::new();
    // Without the time that the caller waits: when it repeats, less is left of it.
    digest.update(&key);
    digest.update([0, u8::from(request.payload.is_some())]);
    digest.update(request.payload.as_deref().unwrap_or_default());
    Idempotency { key, digest: digest.finalize().into() }
}

/// The answer to a request, with nothing in it yet.
fn answer_to(request: &CommandInvocationRequest, app_version_name: String) -> CommandInvocationResult {
    CommandInvocationResult {
        correlation_id: request.correlation_id.clone(),
        timestamp: now_ms(),
        timeout: 0,
        app_version_name,
        endpoint_id: request.endpoint_id.clone(),
        command_type: request.command_type.clone(),
        command_id: request.command_id,
        status_code: 0,
        reason_phrase: None,
        payload: None,
    }
}

/// How a command ended, as its caller gets it.
fn result(
    request: &CommandInvocationRequest,
    app_version: &AppVersionName,
    command: &Command,
) -> CommandInvocationResult {
    let answer = answer_to(request, app_version.to_string());
    if command.state == State::Executed {
        return CommandInvocationResult {
            status_code: command.status_code.unwrap_or(200),
            reason_phrase: command.reason_phrase.clone(),
            payload: command.result.as_ref().map(|payload| payload.bytes().clone()),
            ..answer
        };
    }
    let reason = command.transitions.last().and_then(|transition| transition.reason.clone());
    let status_code = if command.state == State::Cancelled { 410 } else { 408 };
    let reason_phrase = reason.or_else(|| Some(format!("the command ended: {}", command.state.as_str())));
    CommandInvocationResult { status_code, reason_phrase, ..answer }
}
