//! Topics outside of 1/KP, which extensions serve for clients that have shown credentials.
//!
//! The gateway asks the extension who may subscribe and hands it what is published; to whom its messages go
//! is known from `subscribers`. A message never comes before the SUBACK of its subscription, and none is lost
//! before it: from the question on it is held back (`connection`).

use std::sync::Arc;
use std::time::Duration;

use async_nats::Message;
use bytes::Bytes;
use ids::{CorrelationId, InstanceName, TenantId};
use ism::subject::{self, Message as MessageType};
use ism::topics::{
    DELIVERY_REPORT, PUBLISH_REQUEST, PUBLISH_RESPONSE, SUBSCRIBE_REQUEST, SUBSCRIBE_RESPONSE,
    TopicDeliveryReport, TopicMessage, TopicPublishRequest, TopicPublishResponse, TopicSubscribeRequest,
    TopicSubscribeResponse,
};
use ism::{Envelope as _, Record};
use kp1::TopicFilter;
use runtime::now_ms;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::announcements::Announcement;
use crate::clients::{Client, Sender};
use crate::connection::{Asked, Connection};
use crate::downlink::{Downlink, report_subject};
use crate::failure::Failure;
use crate::gateway::Gateway;
use crate::limits::Source;
use crate::metrics::Transport;
use crate::outbox::{Fate, Outgoing, Qos, Receipt};
use crate::registry::{Served, Server};
use crate::relay::{self, Passage, PayloadLimit, Question, too_large};
use crate::topic_turns::Place;
use crate::uplink::{self, Payload, Publication, Verdict};

/// What MQTT says of a PUBLISH beside what it holds.
pub(crate) struct Packet {
    /// None with QoS 0.
    pub(crate) id: Option<u16>,
    /// The client has sent it before.
    pub(crate) is_duplicate: bool,
    /// As [`Gateway::place`] says.
    pub(crate) place: Option<Place>,
}

/// An extension's answer about a topic.
trait Answer: Record {
    fn status(self) -> (i32, Option<String>);
}

impl Answer for TopicSubscribeResponse {
    fn status(self) -> (i32, Option<String>) {
        (self.status_code, self.reason_phrase)
    }
}

impl Answer for TopicPublishResponse {
    fn status(self) -> (i32, Option<String>) {
        (self.status_code, self.reason_phrase)
    }
}

impl Gateway {
    /// The place of a publication among those on its topic, if it is one that an extension serves. To be taken as soon as
    /// it comes.
    pub(crate) fn place(&self, connection: &Connection, topic: &Arc<str>) -> Option<Place> {
        let may_be_served = connection.client.is_some()
            && !topic.starts_with("kp1/")
            && !matches!(self.relay.registry.server_of_topic(topic), Server::Nobody);
        may_be_served.then(|| connection.topic_turns.queue(topic))
    }

    /// Takes what a client published: on a topic that an extension serves, when it has a place there, or on one of 1/KP.
    pub(crate) async fn take_publication(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        publication: Publication,
        packet: Packet,
        deadline: Instant,
    ) -> Verdict {
        match connection.client.as_deref() {
            Some(client) if packet.place.is_some() => {
                self.publish_to_topic(connection, client, publication, packet, deadline).await
            }
            _ => self.publish(Sender::Client(connection), publication, deadline).await,
        }
    }

    async fn publish_to_topic(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        client: &Client,
        publication: Publication,
        mut packet: Packet,
        deadline: Instant,
    ) -> Verdict {
        let passage = Passage::new(self.relay.correlation_ids.next());
        let span = tracing::info_span!("publish", correlation_id = %passage.correlation_id);
        if let Some(traceparent) = &publication.traceparent {
            runtime::trace::adopt_traceparent(&span, traceparent);
        }
        async {
            let _in_flight = self.enter();
            let turn = match &mut packet.place {
                Some(place) => place.turn(deadline).await,
                None => Ok(()),
            };
            let result = match turn {
                Ok(()) => {
                    self.relay_to_topic(connection, client, &publication, &packet, &passage, deadline).await
                }
                failed => failed,
            };
            let is_sent_again = publication.waits && result.as_ref().is_err_and(|failure| failure.passing);
            if let Some(place) = packet.place.as_ref().filter(|_| is_sent_again) {
                place.fail();
            }
            let verdict = result.map_or_else(Verdict::failed, |()| Verdict::Taken);
            self.conclude(Transport::Mqtt, Some(connection), &publication, &passage, &verdict);
            verdict
        }
        .instrument(span)
        .await
    }

    async fn relay_to_topic(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        client: &Client,
        publication: &Publication,
        packet: &Packet,
        passage: &Passage,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let (payload, bytes) = match &publication.payload {
            Payload::Kept { bytes, .. } => (Some(bytes), bytes.len()),
            Payload::TooLarge(bytes) => (None, *bytes),
            Payload::NoRoom(failure) => return Err(failure.clone()),
        };
        let _turn = uplink::turn(connection, deadline).await?;
        let patience = publication.waits.then_some(deadline);
        connection.rate.take(Source::Connection, passage.since, patience).await?;
        let served =
            self.server(|| self.relay.registry.server_of_topic(&publication.topic), deadline).await?;
        self.relay.clients.admit(Sender::Client(connection), &client.tenant).await?;
        self.tenants.of(&client.tenant).take(Source::Tenant, passage.since, patience).await?;
        let limit = PayloadLimit::new(self.relay.payload_bytes_max, served.max_payload_bytes);
        let payload =
            payload.filter(|_| bytes <= limit.bytes).ok_or_else(|| too_large(Some(bytes), limit))?;
        let request = TopicPublishRequest {
            correlation_id: passage.correlation_id.to_string(),
            timestamp: now_ms(),
            timeout: timeout(deadline),
            tenant_id: client.tenant.to_string(),
            client_id: connection.client_id.to_string(),
            credentials_ids: client.credentials().map(ToString::to_string).collect(),
            topic: publication.topic.to_string(),
            payload: payload.clone(),
            packet_id: packet.id.map(i32::from),
            is_duplicate: packet.is_duplicate,
            correlation_data: publication.correlation_data.clone(),
            response_topic: publication.response_topic.as_deref().map(str::to_owned),
        };
        let (asked, answered) = (PUBLISH_REQUEST, PUBLISH_RESPONSE);
        let (extension, data) = (&served.extension, request.encode());
        self.ask_about_topic::<TopicPublishResponse>(extension, asked, answered, data, deadline).await
    }

    /// Finds who serves the topics that a client wants to subscribe to. From now on what is sent to them is held back: the
    /// extension may send something as soon as it has granted.
    ///
    /// # Errors
    /// 404 when no extension serves them; a passing failure when that is not known yet.
    pub(crate) async fn begin_to_subscribe(
        &self,
        connection: &Arc<Connection>,
        client: &Client,
        filter: &TopicFilter,
        deadline: Instant,
    ) -> Result<(Arc<Served>, Asked), Failure> {
        let served = self.server(|| self.relay.registry.server_of_filter(filter), deadline).await?;
        self.relay.clients.admit(Sender::Client(connection), &client.tenant).await?;
        let asked = self.connections.ask_topic(connection, filter, &served.extension);
        let asked = asked.map_err(|rejected| Failure::refused(429, rejected.to_string()))?;
        Ok((served, asked))
    }

    /// Asks whether a client may subscribe to topics that an extension serves.
    ///
    /// # Errors
    /// What the extension says; a passing failure when it does not answer.
    pub(crate) async fn ask_to_subscribe(
        &self,
        served: &Served,
        connection: &Arc<Connection>,
        client: &Client,
        filter: &TopicFilter,
        correlation_id: &CorrelationId,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let request = TopicSubscribeRequest {
            correlation_id: correlation_id.to_string(),
            timestamp: now_ms(),
            timeout: timeout(deadline),
            tenant_id: client.tenant.to_string(),
            client_id: connection.client_id.to_string(),
            credentials_ids: client.credentials().map(ToString::to_string).collect(),
            topic_filter: filter.as_str().to_owned(),
        };
        let (asked, answered) = (SUBSCRIBE_REQUEST, SUBSCRIBE_RESPONSE);
        let (extension, data) = (&served.extension, request.encode());
        self.ask_about_topic::<TopicSubscribeResponse>(extension, asked, answered, data, deadline).await
    }

    /// Who serves a topic. Before extensions have announced themselves that is asked again until the
    /// deadline.
    async fn server(&self, look: impl Fn() -> Server, deadline: Instant) -> Result<Arc<Served>, Failure> {
        let mut attempts = relay::Attempts::new(deadline);
        loop {
            let failure = match look() {
                Server::Extension(served) => return Ok(served),
                Server::Nobody => Failure::refused(404, "no extension serves this topic; check it"),
                Server::NotYet => Failure::passing(503, "no extension has announced itself yet; try again"),
            };
            attempts.after(failure).await?;
        }
    }

    /// Asks an extension, and again as long as it is certain that nothing has been done.
    async fn ask_about_topic<A: Answer>(
        &self,
        extension: &InstanceName,
        request: MessageType,
        answer: MessageType,
        data: Bytes,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let mut attempts = relay::Attempts::new(deadline);
        loop {
            let headers = runtime::trace::headers();
            let question = Question { request, answer, data: data.clone(), headers };
            let asked = self.relay.ask(extension, question, deadline).await;
            let attempt = asked.and_then(|message| read_answer::<A>(extension, &message));
            if let Some(last) = attempts.while_nothing_is_done(attempt).await {
                return last;
            }
        }
    }
}

fn read_answer<A: Answer>(extension: &InstanceName, message: &Message) -> Result<(), Failure> {
    let answer = A::decode(&message.payload).map_err(|error| {
        tracing::error!(%extension, %error, "an extension's answer cannot be read");
        Failure::passing(500, format!("extension '{extension}' answered what cannot be read"))
    })?;
    let (status_code, reason) = answer.status();
    match relay::check(extension, status_code, reason.as_deref())? {
        ..400 => Ok(()),
        status => Err(Failure::refused(status, reason.unwrap_or_else(|| "refused by the extension".into()))),
    }
}

/// As messages have it; 0 would be no time limit.
fn timeout(deadline: Instant) -> i64 {
    let left = deadline.saturating_duration_since(Instant::now());
    i64::try_from(left.as_millis()).unwrap_or(i64::MAX).max(1)
}

impl Downlink {
    /// A message of an extension for whoever subscribed to its topic. Every replica hears it; one without
    /// such clients says nothing.
    pub(crate) fn to_topic(&self, message: Message) {
        let extension = subject::sender(&message.subject).and_then(|name| InstanceName::parse(name).ok());
        let Some(extension) = extension else { return };
        let data = match TopicMessage::decode(&message.payload) {
            Ok(data) => data,
            Err(error) => {
                return tracing::warn!(%extension, %error, "a message on a topic cannot be read; it is dropped");
            }
        };
        let gateway = &self.gateway;
        if data.expired(now_ms()) {
            return gateway.metrics.expired();
        }
        let filters = gateway.relay.registry.filters(extension.as_str(), &data.topic);
        let Ok(tenant) = TenantId::parse(&data.tenant_id) else {
            return tracing::warn!(%extension, "a message on a topic names no tenant; it is dropped");
        };
        if filters.is_empty() {
            let topic = &data.topic;
            return tracing::warn!(%extension, topic, "a message on a topic that its extension does not serve is dropped");
        }
        let subscribers = gateway.connections.subscribers.of(&extension, &tenant, &filters);
        let found = subscribers.into_iter().filter_map(|id| gateway.connections.get(id));
        let receivers: Vec<_> =
            found.filter(|connection| has_shown(connection, data.credentials_id.as_deref())).collect();
        if receivers.is_empty() {
            return gateway.metrics.push("not_here");
        }
        if let Ok(reply) = report_subject(message.reply, DELIVERY_REPORT) {
            self.deliver_on_topic(&extension, data, receivers, reply);
        }
    }

    /// Sends a message to its subscribers and reports what becomes of it.
    fn deliver_on_topic(
        &self,
        extension: &InstanceName,
        data: TopicMessage,
        receivers: Vec<Arc<Connection>>,
        reply: Option<String>,
    ) {
        let gateway = &self.gateway;
        let longest = Duration::from_millis(gateway.config.push_deadline_ms);
        let deadline = Instant::now() + data.remaining(now_ms()).map_or(longest, |left| left.min(longest));
        let Some(awaited) = self.awaited.enter(extension.as_str().into()) else {
            // What cannot be reported is not begun: its sender would take it for undelivered.
            return gateway.metrics.push("failed");
        };
        let (receipt, told) = Receipt::new();
        let correlation_id = data.correlation_id.clone();
        let announced = reply.clone().map(|subject| (subject, report(&correlation_id, 102, "")));
        let write = {
            let extension = extension.clone();
            move || {
                let topic: Arc<str> = data.topic.into();
                let response_topic: Option<Arc<str>> = data.response_topic.map(Into::into);
                for connection in receivers {
                    connection.deliver(
                        &extension,
                        Outgoing {
                            correlation_data: data.correlation_data.clone(),
                            response_topic: response_topic.clone(),
                            deadline: Some(deadline),
                            receipt: Some(receipt.clone()),
                            ..Outgoing::new(topic.clone(), data.payload.clone(), Qos::AtLeastOnce)
                        },
                    );
                }
                // From now on only those hold the receipt that may still deliver.
            }
        };
        match announced {
            Some((subject, report)) => {
                self.announcements.begin(Announcement { subject, report, write: Box::new(write) });
            }
            None => write(),
        }
        let gateway = gateway.clone();
        tokio::spawn(async move {
            let _awaited = awaited;
            let fate = told.until(deadline).await;
            gateway.metrics.push(if fate == Fate::Delivered { "delivered" } else { "failed" });
            let (status_code, reason) = match fate {
                Fate::Delivered => (200, ""),
                Fate::NeverWritten => (404, "the message could not be written to any client"),
                Fate::Unacknowledged => (504, "no client acknowledged the message"),
            };
            if let Some(reply) = reply {
                gateway.notices.publish(reply, report(&correlation_id, status_code, reason));
            }
        });
    }
}

/// Whether the client has shown these credentials, if any are named.
fn has_shown(connection: &Connection, credentials_id: Option<&str>) -> bool {
    credentials_id.is_none_or(|wanted| {
        let client = connection.client.as_deref();
        client.is_some_and(|client| client.credentials().any(|id| **id == *wanted))
    })
}

fn report(correlation_id: &str, status_code: i32, reason: &str) -> Bytes {
    let report = TopicDeliveryReport {
        correlation_id: correlation_id.to_owned(),
        timestamp: now_ms(),
        timeout: 0,
        status_code,
        reason_phrase: (!reason.is_empty()).then(|| reason.to_owned()),
    };
    report.encode()
}
