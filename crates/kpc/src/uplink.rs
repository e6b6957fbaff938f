//! A message that a device published, from its arrival to its verdict.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ids::{CorrelationId, RequestId};
use ism::esp::ExtensionData;
use kp1::{ErrorBody, Outcome, RequestPath};
use runtime::now_ms;
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::clients::Sender;
use crate::connection::{Connection, Rejected};
use crate::failure::{Failure, Sequel};
use crate::gateway::Gateway;
use crate::limits::Source;
use crate::memory::Taken;
use crate::metrics::{self, Transport};
use crate::outbox::{CloseReason, Outgoing, Qos};
use crate::relay::{self, Answer, Passage, Route, too_large};

/// A message as MQTT delivers it.
#[derive(Debug)]
pub(crate) struct Publication {
    pub(crate) topic: Arc<str>,
    pub(crate) payload: Payload,
    pub(crate) qos: Qos,
    /// MQTT 3.1.1 with QoS 1 or 2: there is no acknowledgement that says no. Such a message waits when it comes too fast,
    /// and over a limit it is not acknowledged; a good message would be lost otherwise.
    pub(crate) waits: bool,
    /// MQTT 5: where the sender wants the answer beside the 1/KP topic.
    pub(crate) response_topic: Option<Arc<str>>,
    /// MQTT 5: what comes back with an answer to the response topic.
    pub(crate) correlation_data: Option<Bytes>,
    /// MQTT 5: how long the message is worth delivering.
    pub(crate) expiry: Option<Duration>,
    /// W3C trace context.
    pub(crate) traceparent: Option<Box<str>>,
}

/// What came with a message.
#[derive(Debug)]
pub(crate) enum Payload {
    Kept {
        bytes: Bytes,
        /// Its share of what all payloads may take; nothing for a will, which waited here all the time.
        _memory: Taken,
    },
    /// Over the limit of the gateway, and not kept; its size in bytes.
    TooLarge(usize),
    /// Not kept, because others take all the memory that there is for payloads.
    NoRoom(Failure),
}

impl Payload {
    /// How long it is, in bytes, as far as that is known.
    fn bytes(&self) -> usize {
        match self {
            Self::Kept { bytes, .. } => bytes.len(),
            Self::TooLarge(bytes) => *bytes,
            Self::NoRoom(_) => 0,
        }
    }

    /// A payload that takes nothing from others.
    pub(crate) fn own(bytes: Bytes) -> Self {
        Self::Kept { bytes, _memory: Taken::default() }
    }
}

/// What is said to the sender of a message.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The extension has taken responsibility.
    Taken,
    /// The message is bad; sending it again changes nothing.
    Refused(Failure),
    /// The message could not be delivered, through no fault of its sender.
    Undelivered(Failure),
    /// The sender may not speak on its connection, which ends.
    Unwelcome(Failure),
}

/// How a message ended, with what is needed to answer it.
struct Ending {
    route: Option<Route>,
    result: Result<Answer, Failure>,
}

impl Gateway {
    /// Relays a publication, answers its sender and whoever listens, and gives the verdict. It is tried until the deadline.
    pub(crate) async fn publish(
        self: &Arc<Self>,
        sender: Sender<'_>,
        publication: Publication,
        deadline: Instant,
    ) -> Verdict {
        let correlation_id = self.relay.correlation_ids.next();
        // At the default log level too: it gives the log lines their correlation id.
        let span = tracing::info_span!("publish", %correlation_id);
        if let Some(traceparent) = &publication.traceparent {
            runtime::trace::adopt_traceparent(&span, traceparent);
        }
        self.publish_in_span(sender, publication, Passage::new(correlation_id), deadline)
            .instrument(span)
            .await
    }

    async fn publish_in_span(
        self: &Arc<Self>,
        sender: Sender<'_>,
        publication: Publication,
        mut passage: Passage,
        deadline: Instant,
    ) -> Verdict {
        let _in_flight = self.enter();
        let from = sender.connection();
        let ending = self.relay_publication(sender, &publication, &mut passage, deadline).await;
        let transport = if from.is_some() { Transport::Mqtt } else { Transport::Will };
        let verdict = verdict(&ending.result);
        self.conclude(transport, from, &publication, &passage, &verdict);
        self.answer(from, &publication, &passage.correlation_id, ending);
        verdict
    }

    /// Counts a message that has come to its end, and logs it unless it was taken.
    pub(crate) fn conclude(
        &self,
        transport: Transport,
        from: Option<&Arc<Connection>>,
        publication: &Publication,
        passage: &Passage,
        verdict: &Verdict,
    ) {
        self.metrics.message(transport, outcome(verdict), passage);
        log(&passage.correlation_id, from, publication, verdict);
    }

    async fn relay_publication(
        self: &Arc<Self>,
        sender: Sender<'_>,
        publication: &Publication,
        passage: &mut Passage,
        deadline: Instant,
    ) -> Ending {
        let payload = match &publication.payload {
            Payload::Kept { bytes, .. } => Ok(bytes),
            Payload::TooLarge(bytes) => Err(*bytes),
            Payload::NoRoom(failure) => return Ending { route: None, result: Err(failure.clone()) },
        };
        let turn = match sender.connection() {
            Some(connection) => turn(connection, deadline).await.map(Some),
            None => Ok(None),
        };
        let _turn = match turn {
            Ok(turn) => turn,
            Err(failure) => return Ending { route: None, result: Err(failure) },
        };
        let route = match self.admit(sender, publication, passage, deadline).await {
            Ok(route) => route,
            Err(failure) => return Ending { route: None, result: Err(failure) },
        };
        let result = match payload {
            Ok(payload) => {
                self.relay.exchange(&route, payload.clone(), &passage.correlation_id, deadline, None).await
            }
            Err(bytes) => Err(too_large(Some(bytes), route.payload_limit)),
        };
        Ending { route: Some(route), result }
    }

    /// Checks what can be checked before the extension is asked, and attaches the endpoint to the connection.
    async fn admit(
        self: &Arc<Self>,
        sender: Sender<'_>,
        publication: &Publication,
        passage: &mut Passage,
        deadline: Instant,
    ) -> Result<Route, Failure> {
        let from = sender.connection();
        let patience = publication.waits.then_some(deadline);
        if let Some(connection) = from {
            connection.rate.take(Source::Connection, passage.since, patience).await?;
        }
        let path = RequestPath::parse_topic(&publication.topic)?;
        let resolved = self.relay.resolve(&path, sender, passage, deadline).await;
        let over_limit = |failure: Failure| Failure { passing: publication.waits, ..failure };
        let route =
            resolved.map_err(|failure| if failure.status == 429 { over_limit(failure) } else { failure })?;
        self.take_rates(&route, passage.since, patience).await?;
        if let Some(identity) = &route.identity {
            identity.traffic.received(publication.payload.bytes());
            if let Some(connection) = from {
                self.attach(connection, &route.app_version, identity, route.mark).map_err(over_limit)?;
            }
        }
        Ok(route)
    }

    /// Attaches an endpoint to a connection, unless it is. `mark` was taken before the endpoint's token was resolved.
    pub(crate) fn attach(
        &self,
        connection: &Arc<Connection>,
        app_version: &ids::AppVersionName,
        identity: &Arc<crate::identity::Identity>,
        mark: u64,
    ) -> Result<(), Failure> {
        match self.connections.attach(connection, app_version, identity) {
            // The client has gone already; its message counts all the same.
            Ok(_) | Err(Rejected::Ended) => {}
            Err(rejected) => return Err(Failure::refused(429, rejected.to_string())),
        }
        // The revocation may have looked for the connections to close before this one could be found.
        if self.relay.identities.revoked_since(mark, &identity.endpoint) {
            connection.close(CloseReason::Revoked);
        }
        Ok(())
    }

    fn answer(
        &self,
        from: Option<&Arc<Connection>>,
        publication: &Publication,
        correlation_id: &CorrelationId,
        ending: Ending,
    ) {
        let Ending { route, result } = ending;
        let response = Response::of(&result);
        let request_id = route.as_ref().and_then(|route| route.request_id);
        let identity = route.as_ref().and_then(|route| route.identity.as_ref());
        // Without a request id nobody waits for a confirmation; errors are told always (1/KP).
        let is_told = request_id.is_some() || response.outcome == Outcome::Error;
        if let Some(connection) = from {
            let respond = |topic: Arc<str>, correlation_data: Option<Bytes>| {
                let payload = response.payload.clone();
                let outgoing =
                    Outgoing { correlation_data, ..Outgoing::new(topic, payload, publication.qos) };
                if connection.send(outgoing) {
                    self.metrics.response("asker");
                    if let Some(identity) = identity {
                        identity.traffic.sent(response.payload.len());
                    }
                }
            };
            let asked_for = publication.response_topic.as_deref();
            let topic = is_told.then(|| kp1::response_topic(&publication.topic, response.outcome));
            // A client that asks for the answer where it comes anyway gets it once, as it asked for it.
            if let Some(topic) = topic.filter(|topic| Some(topic.as_str()) != asked_for) {
                respond(topic.into(), None);
            }
            if let Some(topic) = &publication.response_topic {
                respond(topic.clone(), publication.correlation_data.clone());
            }
        }
        if let Some(route) = &route
            && let Some(identity) = identity
            && is_told
        {
            let (data, bytes) = match result {
                Ok(answer) => (answer.data, Some(answer.bytes)),
                Err(failure) => (extension_data(route, &failure, correlation_id), None),
            };
            let asker = from.map(|connection| connection.id);
            self.tell_listeners(&identity.endpoint, asker, &route.extension, &data, bytes, publication.qos);
        }
    }
}

/// The answer as a device sees it.
struct Response {
    outcome: Outcome,
    payload: Bytes,
}

impl Response {
    fn of(result: &Result<Answer, Failure>) -> Self {
        match result {
            Ok(answer) => {
                let (outcome, payload) = response(&answer.data);
                Self { outcome, payload }
            }
            Err(failure) => {
                Self { outcome: Outcome::Error, payload: error_body(failure.status, &failure.reason) }
            }
        }
    }
}

/// Outcome and payload of an extension's answer (1/KP: errors have a format of their own).
pub(crate) fn response(data: &ExtensionData) -> (Outcome, Bytes) {
    let status = relay::status(data.status_code);
    if status < 400 {
        return (Outcome::Status, data.payload.clone().unwrap_or_default());
    }
    (
        Outcome::Error,
        error_body(status, data.reason_phrase.as_deref().unwrap_or("the extension gave no reason")),
    )
}

pub(crate) fn error_body(status: u16, reason: &str) -> Bytes {
    ErrorBody { status_code: status, reason_phrase: reason.to_owned() }.to_json().into()
}

/// Waits until a message is one of those of its connection that may be worked on at once.
///
/// # Errors
/// A passing 504 when its turn does not come before the deadline.
pub(crate) async fn turn(connection: &Connection, deadline: Instant) -> Result<SemaphorePermit<'_>, Failure> {
    match tokio::time::timeout_at(deadline, connection.in_flight.acquire()).await {
        Ok(Ok(turn)) => Ok(turn),
        Ok(Err(_)) | Err(_) => {
            let reason = "earlier messages of the connection are not answered yet; send more slowly";
            Err(Failure::passing(504, reason))
        }
    }
}

fn verdict(result: &Result<Answer, Failure>) -> Verdict {
    match result {
        Ok(answer) => match relay::status(answer.data.status_code) {
            ..400 => Verdict::Taken,
            status => {
                let reason = answer.data.reason_phrase.clone();
                Verdict::Refused(Failure::refused(
                    status,
                    reason.unwrap_or_else(|| "refused by the extension".into()),
                ))
            }
        },
        Err(failure) => Verdict::failed(failure.clone()),
    }
}

impl Verdict {
    /// What is said of a message that was not taken.
    pub(crate) fn failed(failure: Failure) -> Self {
        match failure {
            failure if failure.sequel == Sequel::Disconnect => Self::Unwelcome(failure),
            failure if failure.passing => Self::Undelivered(failure),
            failure => Self::Refused(failure),
        }
    }
}

fn outcome(verdict: &Verdict) -> metrics::Outcome {
    match verdict {
        Verdict::Taken => metrics::Outcome::Stored,
        Verdict::Refused(failure) | Verdict::Unwelcome(failure) => metrics::Outcome::Refused(failure.status),
        Verdict::Undelivered(failure) => metrics::Outcome::Failed(failure.status),
    }
}

fn log(
    correlation_id: &CorrelationId,
    from: Option<&Arc<Connection>>,
    publication: &Publication,
    verdict: &Verdict,
) {
    let client_id = from.map_or("", |connection| &*connection.client_id);
    match verdict {
        Verdict::Taken => {}
        Verdict::Refused(Failure { status, reason, .. })
        | Verdict::Unwelcome(Failure { status, reason, .. }) => {
            tracing::debug!(%correlation_id, client_id, status, %reason, "a message was refused");
        }
        Verdict::Undelivered(Failure { status, reason, .. }) => {
            let qos = publication.qos;
            tracing::debug!(%correlation_id, client_id, ?qos, status, %reason, "a message was not delivered");
        }
    }
}

/// The gateway's own refusal in the form of an extension's answer, for those that listen.
fn extension_data(route: &Route, failure: &Failure, correlation_id: &CorrelationId) -> ExtensionData {
    ExtensionData {
        correlation_id: correlation_id.to_string(),
        timestamp: now_ms(),
        timeout: 0,
        app_version_name: Some(route.app_version.to_string()),
        extension_instance_name: Some(route.extension.to_string()),
        endpoint_id: route.identity.as_ref().map(|identity| identity.endpoint.to_string()),
        resource_path: route.resource_path.clone(),
        request_id: route.request_id.map(RequestId::get),
        payload: None,
        status_code: failure.status.into(),
        reason_phrase: Some(failure.reason.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(
        status_code: i32,
        payload: Option<&'static str>,
        reason: Option<&str>,
    ) -> Result<Answer, Failure> {
        let data = ExtensionData {
            status_code,
            payload: payload.map(Bytes::from),
            reason_phrase: reason.map(str::to_owned),
            ..ExtensionData::default()
        };
        Ok(Answer { data, bytes: Bytes::new() })
    }

    #[test]
    fn a_success_has_the_extensions_payload_and_an_error_the_body_of_1kp() {
        let response = Response::of(&answer(304, Some("x"), None));
        assert_eq!((response.outcome, response.payload), (Outcome::Status, Bytes::from("x")));
        let response = Response::of(&answer(409, Some("ignored"), Some("busy")));
        assert_eq!(response.outcome, Outcome::Error);
        assert_eq!(response.payload, r#"{"statusCode":409,"reasonPhrase":"busy"}"#);
    }

    #[test]
    fn the_verdict_tells_whose_fault_it_is() {
        assert!(matches!(verdict(&answer(200, None, None)), Verdict::Taken));
        assert!(
            matches!(verdict(&answer(409, None, Some("busy"))), Verdict::Refused(failure) if failure.reason == "busy")
        );
        assert!(matches!(verdict(&Err(Failure::refused(401, ""))), Verdict::Refused(_)));
        assert!(matches!(verdict(&Err(Failure::passing(503, ""))), Verdict::Undelivered(_)));
    }
}
