//! Data samples from transmitters (13/DSTP).
//!
//! One task takes all messages. A message whose application is known goes on at once; one whose application must first be
//! looked up waits aside with the others of that application version, in order, so that it holds up nobody else.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use async_nats::{HeaderMap, Message, Subject};
use ids::{AppVersionName, EndpointId};
use ism::dstp::DataSamplesEvent;
use ism::{Envelope as _, Record as _};
use parking_lot::Mutex;
use runtime::{Applications, LookupError, Subscription, Version};
use tokio_util::task::TaskTracker;
use tracing::Span;

use crate::intake::{Incoming, Intake};
use crate::publisher::Publisher;
use crate::settings::EptsSettings;
use crate::work::{AnswerTo, Outcome};

/// The receiving side of the service.
pub(crate) struct Receiver {
    applications: Applications<EptsSettings>,
    intake: Intake,
    publisher: Publisher,
    lookups: Mutex<Lookups>,
    lookups_max: usize,
    asking: TaskTracker,
}

/// Messages that wait for their application to be looked up.
#[derive(Default)]
struct Lookups {
    waiting: HashMap<AppVersionName, Vec<Received>>,
    count: usize,
}

/// Whether somebody asks for an application already.
enum Asked {
    Before,
    NotYet,
}

/// A message that has been read.
struct Received {
    event: DataSamplesEvent,
    endpoint_id: EndpointId,
    payload_bytes: usize,
    reply: Option<Subject>,
    span: Span,
}

impl Receiver {
    pub(crate) fn new(
        applications: Applications<EptsSettings>,
        intake: Intake,
        publisher: Publisher,
    ) -> Self {
        let lookups_max = usize::try_from(intake.config.lookups_max).unwrap_or(usize::MAX);
        let (lookups, asking) = (Mutex::default(), TaskTracker::new());
        Self { applications, intake, publisher, lookups, lookups_max, asking }
    }

    /// Takes messages until the service stops and all that have come are with the writers.
    pub(crate) async fn run(self: Arc<Self>, mut subscription: Subscription) {
        while let Some(message) = subscription.next().await {
            self.receive(message).await;
        }
        self.asking.close();
        self.asking.wait().await;
    }

    async fn receive(self: &Arc<Self>, message: Message) {
        let event = match DataSamplesEvent::decode(&message.payload) {
            Ok(event) => event,
            Err(error) => {
                self.intake.metrics.unattributed("not-avro");
                tracing::warn!(%error, subject = %message.subject, "data samples that cannot be read were dropped");
                return;
            }
        };
        if event.expired(runtime::now_ms()) {
            self.intake.metrics.unattributed("expired");
            tracing::debug!(correlation_id = event.correlation_id, "data samples came after their deadline");
            return;
        }
        let names = AppVersionName::parse(&event.app_version_name)
            .and_then(|name| Ok((name, EndpointId::parse(&event.endpoint_id)?)));
        let (name, endpoint_id) = match names {
            Ok(names) => names,
            Err(error) => {
                let outcome = refused("names", 400, error.to_string());
                return self.decline(message.reply, &event.correlation_id, &outcome).await;
            }
        };
        let span = span(message.headers.as_ref(), &event.correlation_id);
        let received =
            Received { event, endpoint_id, payload_bytes: message.payload.len(), reply: message.reply, span };
        let is_behind_others = self.lookups.lock().waiting.contains_key(&name);
        match self.applications.cached_version(&name) {
            Some(version) if !is_behind_others => self.take(version, received).await,
            _ => self.look_up(name, received).await,
        }
    }

    /// Puts a message aside until its application is known. The first one asks; the others of the version wait with it.
    async fn look_up(self: &Arc<Self>, name: AppVersionName, received: Received) {
        let set_aside = {
            let mut lookups = self.lookups.lock();
            if lookups.count >= self.lookups_max {
                Err(received)
            } else {
                lookups.count += 1;
                match lookups.waiting.entry(name.clone()) {
                    Entry::Occupied(mut others) => {
                        others.get_mut().push(received);
                        Ok(Asked::Before)
                    }
                    Entry::Vacant(first) => {
                        first.insert(vec![received]);
                        Ok(Asked::NotYet)
                    }
                }
            }
        };
        match set_aside {
            Ok(Asked::Before) => {}
            Ok(Asked::NotYet) => {
                let receiver = self.clone();
                self.asking.spawn(async move { receiver.ask(name).await });
            }
            Err(received) => {
                let message = "too many messages wait for the settings of their application (epts.lookups_max); try again";
                let outcome = refused("lookups-full", 503, message.to_owned());
                self.decline(received.reply, &received.event.correlation_id, &outcome).await;
            }
        }
    }

    async fn ask(self: Arc<Self>, name: AppVersionName) {
        let version = self.applications.version(&name).await;
        // More may come while these are handed on. They must not overtake, so they stay under the name until none is left.
        loop {
            let waiting = {
                let mut lookups = self.lookups.lock();
                let waiting = lookups.waiting.get_mut(&name).map(std::mem::take).unwrap_or_default();
                lookups.count -= waiting.len();
                if waiting.is_empty() {
                    lookups.waiting.remove(&name);
                }
                waiting
            };
            if waiting.is_empty() {
                return;
            }
            for received in waiting {
                self.take(version.clone(), received).await;
            }
        }
    }

    async fn take(&self, version: Result<Arc<Version<EptsSettings>>, LookupError>, received: Received) {
        let Received { event, endpoint_id, payload_bytes, reply, span } = received;
        let version = match version {
            Ok(version) => version,
            Err(error) => {
                let outcome = unknown(&event.app_version_name, &error);
                return self.decline(reply, &event.correlation_id, &outcome).await;
            }
        };
        let deadline_ms = (event.timeout != 0).then(|| event.timestamp.saturating_add(event.timeout));
        let incoming = Incoming {
            version,
            endpoint_id,
            correlation_id: event.correlation_id,
            deadline_ms,
            payload_bytes,
            span,
            answer_to: AnswerTo::Transmitter(reply),
        };
        if let Err(declined) = self.intake.take_samples(incoming, &event.content_type, &event.data_samples)
            && let Some(reply) = declined.reply()
        {
            self.publisher.answer(reply, &declined.correlation_id, &declined.outcome, None).await;
        }
    }

    /// Refuses a message whose application is not known, and so has no book.
    async fn decline(&self, reply: Option<Subject>, correlation_id: &str, outcome: &Outcome) {
        if let Outcome::Refused { reason, .. } = outcome {
            self.intake.metrics.unattributed(reason);
        }
        if let Some(reply) = reply {
            self.publisher.answer(reply, correlation_id, outcome, None).await;
        }
    }
}

/// A span for a message that comes with a trace; for the others none, which costs nothing.
fn span(headers: Option<&HeaderMap>, correlation_id: &str) -> Span {
    let Some(headers) = headers else { return Span::none() };
    let span = tracing::info_span!("store data samples", correlation_id);
    runtime::trace::adopt(&span, Some(headers));
    span
}

/// Why a message whose application version could not be read is not taken.
pub(crate) fn unknown(app_version_name: &str, error: &LookupError) -> Outcome {
    match error {
        LookupError::Unknown => {
            let message = format!("the application version {app_version_name} does not exist");
            refused("unknown-application-version", 404, message)
        }
        LookupError::Unavailable(_) => refused("settings-unavailable", 503, error.to_string()),
    }
}

fn refused(reason: &'static str, status_code: i32, message: String) -> Outcome {
    Outcome::Refused { reason, status_code, message }
}
