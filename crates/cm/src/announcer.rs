//! Tells all services that tokens became useless, until that has surely been told.
//!
//! A revocation is written in the transaction that makes the tokens useless, published after the commit and
//! before the caller is answered, and forgotten when the event has come back from NATS to this replica: then the
//! server has handed it to everybody who listens. What does not come back is published again, by whichever replica
//! finds it first, also after a restart. Hearing of a revocation twice does no harm.

use std::time::Duration;

use async_nats::connection::State;
use async_nats::{HeaderMap, Message};
use ism::Record as _;
use ism::ecap::{EP_TOKEN_REVOKED, EndpointTokenRevokedEvent};
use runtime::{Context, Subscription};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::metrics::Metrics;
use crate::store::{Revocation, Store};

/// Names the revocation in the event's headers.
const REVOCATION_ID: &str = "bandar-revocation-id";
/// How often revocations that are due are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long one event may take to be written. While NATS is away, nobody is held up: it is told later.
const PUBLISH_PATIENCE: Duration = Duration::from_secs(1);
/// Events that have come back and are not forgotten yet; more are told again.
const RETURNED_MAX: usize = 4_096;

/// Publishes revocations. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Announcer {
    context: Context,
    metrics: Metrics,
}

impl Announcer {
    /// Starts to forget what has been told, and to repeat what has not.
    pub(crate) async fn start(context: &Context, store: &Store, metrics: Metrics) -> anyhow::Result<Self> {
        let announcer = Self { context: context.clone(), metrics };
        // No queue: each replica hears its own events.
        let events = context.subscribe(EP_TOKEN_REVOKED.of(context.instance()), None).await?;
        let (returned, told) = mpsc::channel(RETURNED_MAX);
        context.spawn("hear revocations come back", hear(events, context.replica().to_string(), returned));
        context.spawn("forget revocations that are told", forget(told, store.clone()));
        context.spawn("tell revocations again", repeat(announcer.clone(), store.clone()));
        Ok(announcer)
    }

    /// Publishes one revocation.
    pub(crate) async fn tell(&self, revocation: &Revocation) {
        self.metrics.revocation_told(false);
        self.publish(revocation).await;
    }

    async fn publish(&self, revocation: &Revocation) {
        let nats = self.context.nats();
        if nats.connection_state() != State::Connected {
            return tracing::warn!(
                endpoint_id = revocation.endpoint_id,
                "NATS is away: that tokens were revoked is told as soon as it is back"
            );
        }
        let event = EndpointTokenRevokedEvent {
            correlation_id: revocation.correlation_id.clone(),
            timestamp: runtime::now_ms(),
            timeout: 0,
            app_name: revocation.application_name.clone(),
            endpoint_id: revocation.endpoint_id.clone(),
            token_ids: revocation.token_ids.iter().map(ToString::to_string).collect(),
            originator_replica_id: self.context.replica().to_string(),
        };
        let mut headers = HeaderMap::new();
        headers.insert(REVOCATION_ID, revocation.revocation_id.to_string());
        let subject = EP_TOKEN_REVOKED.of(self.context.instance());
        let publish = nats.publish_with_headers(subject, headers, event.encode());
        let problem = match tokio::time::timeout(PUBLISH_PATIENCE, publish).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "NATS takes nothing".to_owned(),
        };
        tracing::error!(problem, endpoint_id = revocation.endpoint_id, "a revocation is told later");
    }
}

/// Takes the events of this replica that have come back.
async fn hear(mut events: Subscription, replica: String, returned: mpsc::Sender<Uuid>) -> anyhow::Result<()> {
    while let Some(message) = events.next().await {
        if let Some(id) = own(&message, &replica) {
            // If there is no room it is told again, and forgotten then.
            let _ = returned.try_send(id);
        }
    }
    Ok(())
}

fn own(message: &Message, replica: &str) -> Option<Uuid> {
    let id = message.headers.as_ref()?.get(REVOCATION_ID)?;
    let event = EndpointTokenRevokedEvent::decode(&message.payload).ok()?;
    (event.originator_replica_id == replica).then(|| id.as_str().parse().ok()).flatten()
}

async fn forget(mut told: mpsc::Receiver<Uuid>, store: Store) -> anyhow::Result<()> {
    let mut ids = Vec::new();
    while told.recv_many(&mut ids, RETURNED_MAX).await > 0 {
        if let Err(error) = store.forget_revocations(&ids).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "revocations are told once more than needed"
            );
        }
        ids.clear();
    }
    Ok(())
}

async fn repeat(announcer: Announcer, store: Store) -> anyhow::Result<()> {
    let stopping = announcer.context.stopping();
    loop {
        if announcer.context.nats().connection_state() == State::Connected {
            match store.take_due_revocations().await {
                Ok(due) => {
                    for revocation in &due {
                        announcer.metrics.revocation_told(true);
                        announcer.publish(revocation).await;
                    }
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "revocations cannot be looked up now; it is tried again");
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = stopping.cancelled() => return Ok(()),
        }
    }
}
