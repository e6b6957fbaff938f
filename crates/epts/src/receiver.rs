//! Data samples (13/DSTP) and points (14/TSTP) from transmitters.
//!
//! One task takes all messages of a subject. A message whose application is known goes on at once; one whose application must
//! first be looked up waits aside with the others of that application version, in order, so that it holds up nobody else.

mod lookups;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use async_nats::{HeaderMap, Message, Subject};
use bytes::Bytes;
use ids::{AppVersionName, EndpointId, InstanceName, InvalidId, TimeSeriesName};
use ism::{DataPoint, DataSamplesEvent, Envelope, Record, TimeSeriesEvent};
use runtime::{Applications, LookupError, Subscription, Version};
use tracing::Span;

use crate::config::Transmitter;
use crate::intake::{Incoming, Intake};
use crate::publisher::Publisher;
use crate::settings::EptsSettings;
use crate::transmitted;
use crate::work::{AnswerTo, Outcome, Protocol};
use lookups::{Asked, Lookups};

/// The receiving side of the service.
pub(crate) struct Receiver {
    applications: Applications<EptsSettings>,
    intake: Intake,
    publisher: Publisher,
    lookups: Lookups<Received>,
}

/// A message that has been read.
struct Received {
    correlation_id: String,
    deadline_ms: Option<i64>,
    endpoint_id: EndpointId,
    content: Content,
    payload_bytes: usize,
    reply: Option<Subject>,
    span: Span,
}

enum Content {
    Samples { content_type: String, samples: Vec<Bytes> },
    Points { series: TimeSeriesName, points: Vec<DataPoint> },
}

impl Content {
    fn protocol(&self) -> Protocol {
        match self {
            Self::Samples { .. } => Protocol::Samples,
            Self::Points { .. } => Protocol::Points,
        }
    }
}

impl Receiver {
    pub(crate) fn new(
        applications: Applications<EptsSettings>,
        intake: Intake,
        publisher: Publisher,
    ) -> Self {
        let lookups = Lookups::new(usize::try_from(intake.config.lookups_max).unwrap_or(usize::MAX));
        Self { applications, intake, publisher, lookups }
    }

    /// Whose points are taken.
    pub(crate) fn transmitters(&self) -> BTreeMap<InstanceName, Transmitter> {
        self.intake.config.transmitters()
    }

    /// Takes data samples until the service stops and all that have come are with the writers.
    pub(crate) async fn run(self: Arc<Self>, mut subscription: Subscription) {
        while let Some(message) = subscription.next().await {
            self.receive_samples(message).await;
        }
        self.lookups.finished().await;
    }

    /// Takes points of one transmitter likewise: only these series, or all when none is named.
    pub(crate) async fn run_points(
        self: Arc<Self>,
        mut subscription: Subscription,
        accepted: HashSet<TimeSeriesName>,
    ) {
        while let Some(message) = subscription.next().await {
            self.receive_points(message, &accepted).await;
        }
        self.lookups.finished().await;
    }

    async fn receive_samples(self: &Arc<Self>, message: Message) {
        let Some(event) = self.read::<DataSamplesEvent>(&message) else { return };
        let names = names(&event.app_version_name, &event.endpoint_id);
        let content = Content::Samples { content_type: event.content_type, samples: event.data_samples };
        let envelope = (event.correlation_id, event.timestamp, event.timeout);
        self.go_on(message, envelope, names, content).await;
    }

    async fn receive_points(self: &Arc<Self>, message: Message, accepted: &HashSet<TimeSeriesName>) {
        let Some(event) = self.read::<TimeSeriesEvent>(&message) else { return };
        let names = names(&event.app_version_name, &event.endpoint_id);
        let series = TimeSeriesName::parse(&event.time_series_name);
        let (names, series) = match (names, series) {
            (Ok(names), Ok(series)) => (names, series),
            (Err(error), _) | (_, Err(error)) => {
                let outcome = refused("names", 400, error.to_string());
                return self
                    .decline((Protocol::Points, message.reply), &event.correlation_id, &outcome)
                    .await;
            }
        };
        if !accepted.is_empty() && !accepted.contains(&series) {
            // It is for other receivers, who answer for it.
            return self.intake.metrics.unattributed("not-accepted");
        }
        let content = Content::Points { series, points: event.data_points };
        let envelope = (event.correlation_id, event.timestamp, event.timeout);
        self.go_on(message, envelope, Ok(names), content).await;
    }

    fn read<R: Record + Envelope>(&self, message: &Message) -> Option<R> {
        let event = match R::decode(&message.payload) {
            Ok(event) => event,
            Err(error) => {
                self.intake.metrics.unattributed("not-avro");
                tracing::warn!(%error, subject = %message.subject, "a message that cannot be read was dropped");
                return None;
            }
        };
        if event.expired(runtime::now_ms()) {
            self.intake.metrics.unattributed("expired");
            let correlation_id = event.correlation_id();
            tracing::debug!(correlation_id, subject = %message.subject, "a message came after its deadline");
            return None;
        }
        Some(event)
    }

    async fn go_on(
        self: &Arc<Self>,
        message: Message,
        (correlation_id, timestamp, timeout): (String, i64, i64),
        names: Result<(AppVersionName, EndpointId), InvalidId>,
        content: Content,
    ) {
        let (name, endpoint_id) = match names {
            Ok(names) => names,
            Err(error) => {
                let outcome = refused("names", 400, error.to_string());
                return self.decline((content.protocol(), message.reply), &correlation_id, &outcome).await;
            }
        };
        let received = Received {
            span: span(message.headers.as_ref(), &correlation_id),
            correlation_id,
            deadline_ms: (timeout != 0).then(|| timestamp.saturating_add(timeout)),
            endpoint_id,
            content,
            payload_bytes: message.payload.len(),
            reply: message.reply,
        };
        match self.applications.cached_version(&name) {
            Some(version) if !self.lookups.is_waiting(&name) => self.take(&name, version, received).await,
            _ => self.look_up(name, received).await,
        }
    }

    /// Puts a message aside until its application is known. The first one asks; the others of the version wait with it.
    async fn look_up(self: &Arc<Self>, name: AppVersionName, received: Received) {
        match self.lookups.set_aside(&name, received) {
            Ok(Asked::Before) => {}
            Ok(Asked::NotYet) => {
                let receiver = self.clone();
                self.lookups.spawn(async move { receiver.ask(name).await });
            }
            Err(received) => {
                let message = "too many messages wait for the settings of their application (epts.lookups_max); try again";
                let outcome = refused("lookups-full", 503, message.to_owned());
                let to = (received.content.protocol(), received.reply);
                self.decline(to, &received.correlation_id, &outcome).await;
            }
        }
    }

    async fn ask(self: Arc<Self>, name: AppVersionName) {
        let version = self.applications.version(&name).await;
        // More may come while these are handed on. They must not overtake, so they stay under the name until none is left.
        while let Some(waiting) = self.lookups.take(&name) {
            for received in waiting {
                self.take(&name, version.clone(), received).await;
            }
        }
    }

    async fn take(
        &self,
        name: &AppVersionName,
        version: Result<Arc<Version<EptsSettings>>, LookupError>,
        received: Received,
    ) {
        let protocol = received.content.protocol();
        let version = match version {
            Ok(version) => version,
            Err(error) => {
                let to = (protocol, received.reply);
                return self.decline(to, &received.correlation_id, &unknown(name, &error)).await;
            }
        };
        let incoming = Incoming {
            version,
            endpoint_id: received.endpoint_id,
            correlation_id: received.correlation_id,
            deadline_ms: received.deadline_ms,
            payload_bytes: received.payload_bytes,
            span: received.span,
            answer_to: AnswerTo::Transmitter(protocol, received.reply),
        };
        let taken = match received.content {
            Content::Samples { content_type, samples } => {
                self.intake.take_samples(incoming, &content_type, &samples)
            }
            Content::Points { series, points } => {
                self.intake.take(incoming, || transmitted::points(&series, points, &self.intake.limits()))
            }
        };
        if let Err(declined) = taken
            && let Some(reply) = declined.reply()
        {
            self.publisher.answer(reply, &declined.correlation_id, &declined.outcome, None).await;
        }
    }

    /// Refuses a message whose application is not known, and so has no book.
    async fn decline(
        &self,
        (protocol, reply): (Protocol, Option<Subject>),
        correlation_id: &str,
        outcome: &Outcome,
    ) {
        if let Outcome::Refused { reason, .. } = outcome {
            self.intake.metrics.unattributed(reason);
        }
        if let Some(reply) = reply {
            self.publisher.answer((protocol, reply), correlation_id, outcome, None).await;
        }
    }
}

fn names(app_version: &str, endpoint: &str) -> Result<(AppVersionName, EndpointId), InvalidId> {
    Ok((AppVersionName::parse(app_version)?, EndpointId::parse(endpoint)?))
}

/// A span for a message that comes with a trace; for the others none, which costs nothing.
fn span(headers: Option<&HeaderMap>, correlation_id: &str) -> Span {
    let Some(headers) = headers else { return Span::none() };
    let span = tracing::info_span!("store points", correlation_id);
    runtime::trace::adopt(&span, Some(headers));
    span
}

/// Why a message whose application version could not be read is not taken.
fn unknown(name: &AppVersionName, error: &LookupError) -> Outcome {
    match error {
        LookupError::Unknown => {
            let message = format!("the application version {name} does not exist");
            refused("unknown-application-version", 404, message)
        }
        LookupError::Unavailable(_) => refused("settings-unavailable", 503, error.to_string()),
    }
}

fn refused(reason: &'static str, status_code: i32, message: String) -> Outcome {
    Outcome::Refused { reason, status_code, message }
}
