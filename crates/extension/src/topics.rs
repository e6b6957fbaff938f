//! Topics outside of 1/KP: an extension names patterns of them ([`Extension::TOPICS`]), says who may
//! subscribe, takes what clients publish, and sends messages to those that subscribed. The gateway asks it
//! only for clients that have shown credentials.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use ids::{CorrelationId, TenantId};
use ism::subject::{Message as MessageType, instance};
use ism::topics::{
    DELIVERY_REPORT, MESSAGE, PUBLISH_REQUEST, PUBLISH_RESPONSE, SUBSCRIBE_REQUEST, SUBSCRIBE_RESPONSE,
};
use ism::{
    Envelope, Record, TopicDeliveryReport, TopicMessage, TopicPublishRequest, TopicPublishResponse,
    TopicSubscribeRequest, TopicSubscribeResponse,
};
use kp1::TopicPattern;
use runtime::{Subjects, now_ms};
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::reports::{self, Asked, Heard};
use crate::serve::{DEFAULT_TIMEOUT, Serving, finish};
use crate::{Delivery, Extension, Gateway, Refusal};

/// Reports on one message that are kept unread: one replica sends two of them.
const REPORTS_MAX: usize = 64;

/// A client wants to subscribe to topics of the extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSubscription {
    /// The tenant of the client.
    pub tenant: TenantId,
    /// The client's id; the tenant's clients choose theirs freely, so it proves nothing.
    pub client_id: String,
    /// The credentials that the client has shown, at least one.
    pub credentials_ids: Vec<String>,
    /// A filter that fits one of the extension's patterns: `+` only in place of a variable level, no `#`.
    pub topic_filter: String,
    /// Follows the question through all services.
    pub correlation_id: CorrelationId,
    /// After this the client no longer waits.
    pub deadline: Instant,
}

/// A client published to a topic of the extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPublication {
    /// The tenant of the client.
    pub tenant: TenantId,
    /// The client's id; the tenant's clients choose theirs freely, so it proves nothing.
    pub client_id: String,
    /// The credentials that the client has shown, at least one.
    pub credentials_ids: Vec<String>,
    /// A topic that fits one of the extension's patterns.
    pub topic: String,
    /// What it published.
    pub payload: Bytes,
    /// MQTT's packet id; none with QoS 0, which is not acknowledged.
    pub packet_id: Option<i32>,
    /// MQTT's DUP flag: the client has sent it before and got no acknowledgement.
    pub is_duplicate: bool,
    /// MQTT 5: Correlation Data.
    pub correlation_data: Option<Bytes>,
    /// MQTT 5: Response Topic.
    pub response_topic: Option<String>,
    /// Follows the message through all services.
    pub correlation_id: CorrelationId,
    /// After this the client no longer waits.
    pub deadline: Instant,
}

/// A message for the clients that subscribed to a topic of the extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPush {
    /// Only clients of this tenant get it.
    pub tenant: TenantId,
    /// Only clients that have shown these credentials get it; none: all that subscribed.
    pub credentials_id: Option<String>,
    /// A topic that fits one of the extension's patterns; the gateway drops any other.
    pub topic: String,
    /// What they get.
    pub payload: Bytes,
    /// MQTT 5: Correlation Data.
    pub correlation_data: Option<Bytes>,
    /// MQTT 5: Response Topic.
    pub response_topic: Option<String>,
}

/// What an extension with [`Extension::TOPICS`] needs on NATS beside `own`, which holds what every extension
/// needs.
#[must_use]
pub fn topic_subjects(own: Subjects) -> Subjects {
    own.serves(SUBSCRIBE_REQUEST)
        .answers_in_own_name(SUBSCRIBE_RESPONSE)
        .serves(PUBLISH_REQUEST)
        .answers_in_own_name(PUBLISH_RESPONSE)
        // Not all of the protocol: that would be what every other extension answers.
        .asks_in_own_name(instance::KPC, MESSAGE, DELIVERY_REPORT)
}

/// The patterns that the extension announces.
///
/// # Errors
/// When one is none, which is a defect of the extension.
pub(crate) fn patterns<E: Extension>() -> anyhow::Result<Vec<String>> {
    let checked = E::TOPICS.iter().map(|pattern| {
        TopicPattern::parse(pattern).with_context(|| format!("the topic pattern '{pattern}'"))?;
        Ok((*pattern).to_owned())
    });
    checked.collect()
}

/// Takes what the gateway asks about topics, if the extension has some.
pub(crate) async fn serve<E: Extension>(serving: &Arc<Serving<E>>) -> anyhow::Result<()> {
    if !E::TOPICS.is_empty() {
        take_all::<E, TopicSubscribeRequest>(serving, "serve subscribers of topics").await?;
        take_all::<E, TopicPublishRequest>(serving, "serve publishers to topics").await?;
    }
    Ok(())
}

type Answering = Pin<Box<dyn Future<Output = Result<(), Refusal>> + Send>>;

/// What the gateway asks for a client.
trait Question: Record + Envelope + Send + Sync + 'static {
    const REQUEST: MessageType;

    /// Bytes of payload.
    fn size(&self) -> usize;

    /// Hands it to the extension.
    fn put<E: Extension>(self, extension: Arc<E>, deadline: Instant) -> Result<Answering, Refusal>;

    fn answer(correlation_id: String, status_code: i32, reason_phrase: Option<String>) -> Bytes;
}

impl Question for TopicSubscribeRequest {
    const REQUEST: MessageType = SUBSCRIBE_REQUEST;

    fn size(&self) -> usize {
        0
    }

    fn put<E: Extension>(self, extension: Arc<E>, deadline: Instant) -> Result<Answering, Refusal> {
        let subscription = TopicSubscription {
            tenant: TenantId::parse(&self.tenant_id).map_err(invalid)?,
            client_id: self.client_id,
            credentials_ids: self.credentials_ids,
            topic_filter: self.topic_filter,
            correlation_id: CorrelationId::parse(&self.correlation_id).map_err(invalid)?,
            deadline,
        };
        Ok(Box::pin(extension.subscribe(subscription)))
    }

    fn answer(correlation_id: String, status_code: i32, reason_phrase: Option<String>) -> Bytes {
        let timestamp = now_ms();
        TopicSubscribeResponse { correlation_id, timestamp, timeout: 0, status_code, reason_phrase }.encode()
    }
}

impl Question for TopicPublishRequest {
    const REQUEST: MessageType = PUBLISH_REQUEST;

    fn size(&self) -> usize {
        self.payload.len()
    }

    fn put<E: Extension>(self, extension: Arc<E>, deadline: Instant) -> Result<Answering, Refusal> {
        let publication = TopicPublication {
            tenant: TenantId::parse(&self.tenant_id).map_err(invalid)?,
            client_id: self.client_id,
            credentials_ids: self.credentials_ids,
            topic: self.topic,
            payload: self.payload,
            packet_id: self.packet_id,
            is_duplicate: self.is_duplicate,
            correlation_data: self.correlation_data,
            response_topic: self.response_topic,
            correlation_id: CorrelationId::parse(&self.correlation_id).map_err(invalid)?,
            deadline,
        };
        Ok(Box::pin(extension.publish(publication)))
    }

    fn answer(correlation_id: String, status_code: i32, reason_phrase: Option<String>) -> Bytes {
        let timestamp = now_ms();
        TopicPublishResponse { correlation_id, timestamp, timeout: 0, status_code, reason_phrase }.encode()
    }
}

fn invalid(error: ids::InvalidId) -> Refusal {
    Refusal::bad_request(error.to_string())
}

async fn take_all<E: Extension, Q: Question>(
    serving: &Arc<Serving<E>>,
    name: &'static str,
) -> anyhow::Result<()> {
    let (context, serving) = (&serving.context, serving.clone());
    let queue = context.instance().as_str();
    let mut messages = context.subscribe(Q::REQUEST.service(context.instance()), Some(queue)).await?;
    context.spawn(name, async move {
        while let Some(message) = messages.next().await {
            take::<E, Q>(&serving, message).await;
        }
        Ok(())
    });
    Ok(())
}

async fn take<E: Extension, Q: Question>(serving: &Arc<Serving<E>>, incoming: async_nats::Message) {
    let question = match Q::decode(&incoming.payload) {
        Ok(question) => question,
        Err(error) => {
            return tracing::warn!(%error, "a message about a topic cannot be read and was dropped");
        }
    };
    if question.expired(now_ms()) {
        return serving.metrics.expired();
    }
    let correlation_id = question.correlation_id().to_owned();
    let permits = match serving.admit(question.size()) {
        Ok(permits) => permits,
        Err(refusal) => {
            let refused = Err(refusal);
            return answer::<E, Q>(serving, incoming.reply, correlation_id, refused, Instant::now()).await;
        }
    };
    let span = tracing::info_span!("topic", extension = E::NAME, correlation_id);
    runtime::trace::adopt(&span, incoming.headers.as_ref());
    let asked = serving.clone();
    serving.context.task(
        async move {
            let _permits = permits;
            asked.metrics.enter();
            let started = Instant::now();
            let result = handle(&asked, question).await;
            answer::<E, Q>(&asked, incoming.reply, correlation_id, result, started).await;
            asked.metrics.leave();
        }
        .instrument(span),
    );
}

async fn handle<E: Extension, Q: Question>(serving: &Serving<E>, question: Q) -> Result<(), Refusal> {
    let deadline = Instant::now() + question.remaining(now_ms()).unwrap_or(DEFAULT_TIMEOUT);
    let correlation_id = question.correlation_id().to_owned();
    let answering = question.put(serving.extension.clone(), deadline)?;
    finish::<E, _>(answering, deadline, &correlation_id).await
}

async fn answer<E: Extension, Q: Question>(
    serving: &Serving<E>,
    reply: Option<async_nats::Subject>,
    correlation_id: String,
    result: Result<(), Refusal>,
    started: Instant,
) {
    let (status_code, reason_phrase) = match result {
        Ok(()) => (200, None),
        Err(refusal) => (refusal.status_code, Some(refusal.reason_phrase)),
    };
    serving.metrics.answered(status_code, started.elapsed().as_secs_f64());
    let Some(reply) = reply else { return };
    let answer = Q::answer(correlation_id, status_code.into(), reason_phrase);
    if let Err(error) = serving.context.nats().publish(reply, answer).await {
        tracing::warn!(%error, "an answer about a topic could not be sent");
    }
}

impl Gateway {
    /// Sends a message to the clients that subscribed to its topic and waits until one of them has it.
    /// Nothing is written after the timeout; reports are waited for half a second longer.
    pub async fn send(&self, push: TopicPush, correlation_id: &CorrelationId, timeout: Duration) -> Delivery {
        let deadline = Instant::now() + timeout;
        let message = TopicMessage {
            correlation_id: correlation_id.to_string(),
            timestamp: now_ms(),
            // 0 would be no deadline.
            timeout: i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX).max(1),
            tenant_id: push.tenant.to_string(),
            credentials_id: push.credentials_id,
            topic: push.topic,
            payload: push.payload,
            correlation_data: push.correlation_data,
            response_topic: push.response_topic,
        };
        let (requester, headers) = (self.context.requester(), runtime::trace::headers());
        let hearing = self.hearing();
        let subject = MESSAGE.by(self.context.instance()).at(instance::KPC);
        let sending = requester.exchange(subject, DELIVERY_REPORT, message.encode(), headers, REPORTS_MAX);
        let Ok(Ok(mut replies)) = tokio::time::timeout_at(deadline, sending).await else {
            return Delivery::Offline;
        };
        let status = |report: &Bytes| TopicDeliveryReport::decode(report).map_or(500, |it| it.status_code);
        match reports::hear(&mut replies, Asked::AllReplicas, deadline, deadline, status).await {
            Heard::Delivered => Delivery::Delivered,
            Heard::Unknown => Delivery::Unknown,
            Heard::NotThere | Heard::Silence if self.has_heard_all(hearing).await => Delivery::Offline,
            Heard::NotThere | Heard::Silence => Delivery::Unknown,
        }
    }
}
