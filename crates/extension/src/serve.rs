//! The way of a message through an extension.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use ids::{AppVersionName, CorrelationId, EndpointId, ReplicaId, RequestId};
use ism::{ClientData, Envelope as _, ExtensionData, Record as _};
use runtime::{Context, now_ms};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::handler::Answer;
use crate::message::Parameters;
use crate::metrics::Metrics;
use crate::prefer::{PREFER, preferred_wait_s};
use crate::registration::{Registration, keep_registered};
use crate::{Extension, Gateway, Message, Refusal, Routes, topics};

/// A message without a timeout of its own is given this much.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// What an extension takes at once.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Messages that are handled at once; more are answered 503, and the gateway repeats them. Senders of half as many may be waited
    /// with ([`Message::prefer_wait`]); others find nobody who waits.
    pub in_flight_max: usize,
    /// Payload bytes of the messages that are handled at once; more are answered 503.
    pub in_flight_bytes_max: usize,
    /// Larger payloads are answered 413 by the gateway.
    pub payload_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { in_flight_max: 8_192, in_flight_bytes_max: 64 * 1024 * 1024, payload_bytes_max: 960 * 1024 }
    }
}

pub(crate) struct Serving<E> {
    pub(crate) context: Context,
    pub(crate) extension: Arc<E>,
    routes: Routes<E>,
    gateway: Arc<Gateway>,
    pub(crate) metrics: Metrics,
    permits: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    /// One permit for each message whose sender is waited with.
    waits: Arc<Semaphore>,
}

/// A message's share of the [`Limits`], given back when dropped.
pub(crate) struct Permits(
    #[expect(dead_code, reason = "held, not read")] (OwnedSemaphorePermit, OwnedSemaphorePermit),
);

/// Registers the extension and answers its messages until the service stops. Returns once messages are taken; the
/// result is the extension's way to push to devices.
pub async fn serve<E: Extension>(
    context: &Context,
    extension: Arc<E>,
    limits: Limits,
) -> anyhow::Result<Arc<Gateway>> {
    let gateway = Arc::new(Gateway::new(context.clone()));
    serve_with(context, extension, limits, gateway.clone()).await?;
    Ok(gateway)
}

/// As [`serve`], for an extension that needs its way to push to devices before it is served. The way learns from the
/// messages which gateway replica holds whom, so it must be this one that pushes.
pub async fn serve_with<E: Extension>(
    context: &Context,
    extension: Arc<E>,
    limits: Limits,
    gateway: Arc<Gateway>,
) -> anyhow::Result<()> {
    let routes = E::routes(Routes::new());
    let registration = Registration {
        name: context.instance().to_string(),
        version: E::VERSION.to_owned(),
        protocol: "esp".to_owned(),
        endpoint_aware: E::ENDPOINT_AWARE,
        resource_paths: routes.paths(),
        max_payload_bytes: Some(limits.payload_bytes_max),
        topics: topics::patterns::<E>()?,
    };
    let serving = Arc::new(Serving {
        context: context.clone(),
        extension,
        routes,
        gateway,
        metrics: Metrics::new(E::NAME),
        permits: Arc::new(Semaphore::new(limits.in_flight_max)),
        bytes: Arc::new(Semaphore::new(limits.in_flight_bytes_max)),
        waits: Arc::new(Semaphore::new(limits.in_flight_max / 2)),
    });
    let subject = ism::esp::CLIENT_DATA.service(context.instance());
    let mut messages = context.subscribe(subject, Some(context.instance().as_str())).await?;
    topics::serve(&serving).await?;
    // Registered only after the subscription: a gateway that knows the extension finds it listening.
    context.spawn("keep the registration", keep_registered(context.clone(), registration));
    context.spawn("serve devices", async move {
        while let Some(message) = messages.next().await {
            serving.clone().take(message).await;
        }
        Ok(())
    });
    Ok(())
}

impl<E: Extension> Serving<E> {
    async fn take(self: Arc<Self>, incoming: async_nats::Message) {
        let data = match ClientData::decode(&incoming.payload) {
            Ok(data) => data,
            Err(error) => return tracing::warn!(%error, "a message is not ClientData and was dropped"),
        };
        if data.expired(now_ms()) {
            return self.metrics.expired();
        }
        let permits = match self.admit(data.payload.len()) {
            Ok(permits) => permits,
            Err(refusal) => return self.answer(&data, incoming.reply, Err(refusal), Instant::now()).await,
        };
        let span =
            tracing::info_span!("extension", extension = E::NAME, correlation_id = data.correlation_id);
        runtime::trace::adopt(&span, incoming.headers.as_ref());
        // Who may be waited with for long must not keep others from being answered at all.
        let waiting = incoming.headers.as_ref().and_then(prefer_wait);
        let waiting = waiting.and_then(|wait| Some((wait, self.waits.clone().try_acquire_owned().ok()?)));
        let serving = self.clone();
        // Boxed: the runtime moves what it is given several times, and a handler's future may be large.
        self.context.task(Box::pin(
            async move {
                let _permits = permits;
                let prefer_wait = waiting.as_ref().map(|(wait, _)| *wait);
                serving.metrics.enter();
                let started = Instant::now();
                let answer = serving.handle(&data, incoming.reply.as_deref(), prefer_wait).await;
                serving.answer(&data, incoming.reply, answer, started).await;
                serving.metrics.leave();
            }
            .instrument(span),
        ));
    }

    async fn handle(&self, data: &ClientData, reply: Option<&str>, prefer_wait: Option<Duration>) -> Answer {
        let mut message = Message { prefer_wait, ..message(data, reply)? };
        if let (Some(endpoint_id), Some(replica)) = (&message.endpoint_id, &message.gateway) {
            self.gateway.remember(endpoint_id, replica);
        }
        let deadline = message.deadline;
        let answering = self.routes.call(self.extension.clone(), &mut message)?;
        let finishing = finish::<E, _>(answering, deadline, &data.correlation_id);
        match prefer_wait {
            None => finishing.await,
            // Whoever waits for something to happen must not hold up the end.
            Some(_) => tokio::select! {
                answer = finishing => answer,
                () = self.context.stopping().cancelled_owned() => {
                    Err(Refusal::timeout("the extension is stopping; ask again"))
                }
            },
        }
    }

    /// Takes a message of so many bytes into work.
    pub(crate) fn admit(&self, bytes: usize) -> Result<Permits, Refusal> {
        let size = u32::try_from(bytes).unwrap_or(u32::MAX);
        let permits =
            (self.permits.clone().try_acquire_owned(), self.bytes.clone().try_acquire_many_owned(size));
        match permits {
            (Ok(permit), Ok(bytes)) => Ok(Permits((permit, bytes))),
            _ => Err(Refusal::unavailable("the extension has too many messages in work; try again")),
        }
    }

    async fn answer(
        &self,
        data: &ClientData,
        reply: Option<async_nats::Subject>,
        answer: Answer,
        started: Instant,
    ) {
        let (status_code, reason_phrase, payload) = match answer {
            Ok(reply) => (reply.status_code, reply.reason_phrase, reply.payload),
            Err(refusal) => (refusal.status_code, Some(refusal.reason_phrase), None::<Bytes>),
        };
        self.metrics.answered(status_code, started.elapsed().as_secs_f64());
        let Some(reply) = reply else { return };
        let answer = ExtensionData {
            correlation_id: data.correlation_id.clone(),
            timestamp: now_ms(),
            timeout: 0,
            app_version_name: Some(data.app_version_name.clone()),
            extension_instance_name: Some(self.context.instance().to_string()),
            endpoint_id: data.endpoint_id.clone(),
            resource_path: data.resource_path.clone(),
            request_id: data.request_id,
            payload,
            status_code: i32::from(status_code),
            reason_phrase,
        };
        if let Err(error) = self.context.nats().publish(reply, answer.encode()).await {
            tracing::warn!(%error, correlation_id = data.correlation_id, "an answer could not be sent");
        }
    }
}

/// How long the device likes to wait, as the gateway tells it.
fn prefer_wait(headers: &async_nats::HeaderMap) -> Option<Duration> {
    let value = headers.get(PREFER)?;
    preferred_wait_s([value.as_str()]).map(|seconds| Duration::from_secs(seconds.into()))
}

/// Lets a handler finish, within its time and without harm to others.
pub(crate) async fn finish<E: Extension, T>(
    answering: impl Future<Output = Result<T, Refusal>>,
    deadline: Instant,
    correlation_id: &str,
) -> Result<T, Refusal> {
    match tokio::time::timeout_at(deadline, AssertUnwindSafe(answering).catch_unwind()).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_panic)) => {
            tracing::error!(extension = E::NAME, correlation_id, "a handler panicked");
            Err(Refusal::new(500, "the extension failed on this message"))
        }
        Err(_) => Err(Refusal::timeout("the extension did not finish in time")),
    }
}

/// Checks what came; a gateway of another make may send anything.
fn message(data: &ClientData, reply: Option<&str>) -> Result<Message, Refusal> {
    let invalid = |error: ids::InvalidId| Refusal::bad_request(error.to_string());
    let request_id = data.request_id.map(RequestId::try_from).transpose();
    let timeout = data.remaining(now_ms()).unwrap_or(DEFAULT_TIMEOUT);
    Ok(Message {
        correlation_id: CorrelationId::parse(&data.correlation_id).map_err(invalid)?,
        app_version_name: AppVersionName::parse(&data.app_version_name).map_err(invalid)?,
        endpoint_id: data.endpoint_id.as_deref().map(EndpointId::parse).transpose().map_err(invalid)?,
        resource_path: data.resource_path.clone(),
        request_id: request_id.map_err(|error| Refusal::bad_request(error.to_string()))?,
        payload: data.payload.clone(),
        deadline: Instant::now() + timeout,
        prefer_wait: None,
        gateway: reply
            .and_then(ism::subject::parse_reply)
            .and_then(|reply| ReplicaId::parse(reply.replica).ok()),
        parameters: Parameters::default(),
    })
}
