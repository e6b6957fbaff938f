//! Taking in what gateways tell: in the order of the journal, all that has gathered at once.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::pull;
use futures::StreamExt as _;
use ids::{AppVersionName, EndpointId, ReplicaId};
use ism::elce::{CONNECTED, CONNECTED_HERE_TOO, DISCONNECTED};
use ism::{ConnectedEvent, DisconnectedEvent, Record as _};
use runtime::{Context, now_ms};
use tokio::sync::Notify;

use crate::config::Config;
use crate::gateways::Gateways;
use crate::journal;
use crate::metrics::Metrics;
use crate::presence::{Change, What};
use crate::store::Store;

/// Events that are looked at together.
const EVENTS_MAX: usize = 256;
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Takes events in.
pub(crate) struct Intake {
    pub(crate) context: Context,
    pub(crate) config: Arc<Config>,
    pub(crate) store: Store,
    pub(crate) gateways: Arc<Gateways>,
    pub(crate) metrics: Arc<Metrics>,
    /// Told whenever there may be something to tell.
    pub(crate) changed: Arc<Notify>,
}

/// Events of which the changes wait to be written together.
#[derive(Default)]
struct Gathered {
    messages: Vec<Message>,
    changes: Vec<Change>,
}

impl Intake {
    /// Opens the journal. Returns only when what gateways tell from now on is kept.
    pub(crate) async fn open(&self) -> anyhow::Result<pull::Stream> {
        let stopping = self.context.stopping();
        loop {
            match journal::open(&self.context, &self.config).await {
                Ok(messages) => return Ok(messages),
                Err(error) => {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "the journal of connectivity cannot be opened; trying again"
                    );
                }
            }
            if stopping.run_until_cancelled(tokio::time::sleep(RETRY_AFTER)).await.is_none() {
                anyhow::bail!("stopped while waiting for JetStream");
            }
        }
    }

    /// Takes events in until the service stops.
    pub(crate) async fn run(self, mut messages: pull::Stream) -> anyhow::Result<()> {
        loop {
            self.follow(messages).await;
            if self.context.stopping().is_cancelled() {
                return Ok(());
            }
            messages = match self.open().await {
                Ok(messages) => messages,
                Err(_) if self.context.stopping().is_cancelled() => return Ok(()),
                Err(error) => return Err(error),
            };
        }
    }

    /// Takes events in until the journal fails or the service stops.
    async fn follow(&self, messages: pull::Stream) {
        let stopping = self.context.stopping();
        let mut events = messages.ready_chunks(EVENTS_MAX);
        while let Some(Some(chunk)) = stopping.run_until_cancelled(events.next()).await {
            let mut gathered = Gathered::default();
            let mut failure = None;
            for event in chunk {
                match event {
                    Ok(message) => self.gather(message, &mut gathered).await,
                    Err(error) => failure = Some(error),
                }
            }
            self.write(&mut gathered).await;
            if let Some(error) = failure {
                return tracing::warn!(%error, "the journal of connectivity was lost; opening it again");
            }
        }
    }

    async fn gather(&self, message: Message, gathered: &mut Gathered) {
        match read(&message) {
            Some(changes) => {
                if let Some(change) = changes.first() {
                    self.gateways.heard(&change.replica);
                }
                gathered.changes.extend(changes);
            }
            None => self.metrics.unreadable(),
        }
        gathered.messages.push(message);
        if gathered.changes.len() >= usize::try_from(self.config.batch_endpoints_max).unwrap_or(usize::MAX) {
            self.write(gathered).await;
        }
    }

    /// Writes the changes, as often as it takes, and only then acknowledges the events: whoever is killed before gets them
    /// again.
    async fn write(&self, gathered: &mut Gathered) {
        let Gathered { messages, changes } = std::mem::take(gathered);
        while !changes.is_empty() {
            match self.store.apply(&changes, now_ms()).await {
                Ok(counts) => {
                    self.metrics.changes(&counts);
                    self.changed.notify_waiters();
                    break;
                }
                Err(error) => tracing::warn!(%error, "connectivity could not be written; trying again"),
            }
            let pause = tokio::time::sleep(RETRY_AFTER);
            if self.context.stopping().run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
        for message in messages {
            if let Err(error) = message.ack().await {
                tracing::debug!(%error, "an event could not be acknowledged and will come again");
            }
        }
    }
}

/// The changes that an event tells of; none when it cannot be read.
fn read(message: &Message) -> Option<Vec<Change>> {
    let kind = message.subject.rsplit('.').next().unwrap_or_default();
    let is_connected = kind == CONNECTED.event_type || kind == CONNECTED_HERE_TOO.message_type;
    let read = if is_connected {
        ConnectedEvent::decode(&message.payload)
            .map(|event| (event.endpoints, event.originator_replica_id, event.timestamp))
    } else if kind == DISCONNECTED.event_type {
        DisconnectedEvent::decode(&message.payload)
            .map(|event| (event.endpoints, event.originator_replica_id, event.timestamp))
    } else {
        return None;
    };
    let (endpoints, replica, at_ms) = read
        .inspect_err(|error| tracing::warn!(%error, subject = %message.subject, "an event cannot be read"))
        .ok()?;
    let replica = ReplicaId::parse(&replica).ok()?;
    let what = if is_connected { What::Connected } else { What::Disconnected };
    let change = |(endpoint, version): (String, String)| {
        let (endpoint, version) = (EndpointId::parse(&endpoint).ok()?, AppVersionName::parse(&version).ok()?);
        Some(Change { endpoint, replica: replica.clone(), at_ms, what: what(version) })
    };
    Some(endpoints.into_iter().filter_map(change).collect())
}
