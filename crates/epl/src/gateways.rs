//! Which gateway replicas are alive. One that falls silent holds nobody any more: nobody else would tell that its
//! endpoints are gone.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::connection::State;
use ids::ReplicaId;
use ism::{Record as _, ReplicaAliveEvent};
use parking_lot::Mutex;
use runtime::{Context, Subscription, now_ms};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::presence::{Change, What};
use crate::store::{Gateway, Store};

/// How often it is looked who has fallen silent.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How far behind a look may be before this process counts as having slept itself.
const LOOK_LATE: Duration = Duration::from_secs(2);
/// The longest interval that a replica may give itself.
const INTERVAL_MAX_MS: i64 = 600_000;
/// Replicas whose signs of life are remembered. There are far fewer; more are not judged.
const REPLICAS_MAX: usize = 10_000;
/// What was said of endpoints that have gone is kept for so long.
const PRESENCES_KEPT: Duration = Duration::from_secs(3_600);
/// How often what is outdated is purged, and what waits is counted.
const TIDY_EVERY: Duration = Duration::from_secs(10);

/// When gateway replicas were last heard by this replica of the service.
#[derive(Default)]
pub(crate) struct Gateways {
    heard: Mutex<HashMap<ReplicaId, Instant>>,
}

impl Gateways {
    /// A replica gave a sign of life.
    pub(crate) fn heard(&self, replica: &ReplicaId) {
        let mut heard = self.heard.lock();
        if heard.len() < REPLICAS_MAX || heard.contains_key(replica) {
            heard.insert(replica.clone(), Instant::now());
        }
    }

    /// For how long a replica has been silent; one that is new here begins to be judged now.
    fn silent_for(&self, replica: &ReplicaId) -> Duration {
        let mut heard = self.heard.lock();
        if let Some(at) = heard.get(replica) {
            return at.elapsed();
        }
        if heard.len() < REPLICAS_MAX {
            heard.insert(replica.clone(), Instant::now());
        }
        Duration::ZERO
    }

    fn forget(&self, replica: &ReplicaId) {
        self.heard.lock().remove(replica);
    }
}

/// Ends what dead replicas hold.
pub(crate) struct Watch {
    pub(crate) context: Context,
    pub(crate) config: Arc<Config>,
    pub(crate) store: Store,
    pub(crate) gateways: Arc<Gateways>,
    pub(crate) metrics: Arc<Metrics>,
    /// Told whenever there may be something to tell.
    pub(crate) changed: Arc<Notify>,
}

/// Since when this process could have heard everybody.
struct Steady {
    since: Instant,
    looked: Instant,
    connects: u64,
}

impl Steady {
    fn look(&mut self, context: &Context) -> Duration {
        let now = Instant::now();
        let connects = context.nats().statistics().connects.load(Ordering::Relaxed);
        let is_connected = context.nats().connection_state() == State::Connected;
        // Whoever was cut off, or did not run, did not hear either.
        if !is_connected || connects != self.connects || now - self.looked > LOOK_EVERY + LOOK_LATE {
            self.since = now;
        }
        (self.looked, self.connects) = (now, connects);
        now - self.since
    }
}

impl Watch {
    /// Hears signs of life until the service stops. Every replica of the service hears all of them.
    pub(crate) async fn hear(
        gateways: Arc<Gateways>,
        store: Store,
        mut events: Subscription,
    ) -> anyhow::Result<()> {
        while let Some(message) = events.next().await {
            let event = match ReplicaAliveEvent::decode(&message.payload) {
                Ok(event) => event,
                Err(error) => {
                    tracing::warn!(%error, "a sign of life cannot be read");
                    continue;
                }
            };
            let Ok(replica) = ReplicaId::parse(&event.originator_replica_id) else { continue };
            gateways.heard(&replica);
            let interval_ms = event.interval_ms.clamp(1, INTERVAL_MAX_MS);
            if let Err(error) = store.alive(&replica, event.timestamp, interval_ms).await {
                tracing::warn!(%error, "a sign of life could not be written");
            }
        }
        Ok(())
    }

    /// Looks for the dead until the service stops.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let stopping = self.context.stopping();
        let now = Instant::now();
        let mut steady = Steady { since: now, looked: now, connects: 0 };
        let mut tidied = now;
        while stopping.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            let steady_for = steady.look(&self.context);
            if let Err(error) = self.look(steady_for).await {
                tracing::warn!(%error, "silent gateway replicas could not be looked for; trying again");
            }
            if tidied.elapsed() >= TIDY_EVERY {
                tidied = Instant::now();
                if let Err(error) = self.tidy().await {
                    tracing::warn!(%error, "what is outdated could not be purged; trying again");
                }
            }
        }
        Ok(())
    }

    async fn look(&self, steady_for: Duration) -> sqlx::Result<()> {
        for Gateway { replica, interval } in self.store.gateways().await? {
            let interval = interval.unwrap_or(self.config.gateway_interval());
            let patience = interval * self.config.gateway_intervals_max;
            if self.gateways.silent_for(&replica) > patience && steady_for > patience {
                self.end(&replica, patience).await?;
            }
        }
        Ok(())
    }

    /// Ends all that a dead replica holds.
    async fn end(&self, replica: &ReplicaId, patience: Duration) -> sqlx::Result<()> {
        let mut ended = 0;
        loop {
            let (endpoints, alive_ms) = self.store.held_by(replica, patience).await?;
            if endpoints.is_empty() {
                break;
            }
            ended += endpoints.len();
            let change =
                |endpoint| Change { endpoint, replica: replica.clone(), at_ms: alive_ms, what: What::Died };
            let changes: Vec<Change> = endpoints.into_iter().map(change).collect();
            let counts = self.store.apply(&changes, now_ms()).await?;
            self.metrics.changes(&counts);
            self.changed.notify_waiters();
            if counts.outdated == u64::try_from(changes.len()).unwrap_or(u64::MAX) {
                // All of them were deleted or taken over by somebody else meanwhile. Whoever is left is looked at next time.
                return Ok(());
            }
        }
        if ended > 0 {
            self.metrics.dead_gateway();
            tracing::warn!(replica = %replica, endpoints = ended, "a gateway replica is dead; its endpoints are offline");
        }
        self.store.forget_gateway(replica).await?;
        self.gateways.forget(replica);
        Ok(())
    }

    async fn tidy(&self) -> sqlx::Result<()> {
        while self.store.purge_presences(PRESENCES_KEPT).await? > 0 {}
        let kept = Duration::from_millis(self.config.points_kept_ms);
        loop {
            let dropped = self.store.purge_points(kept, self.config.points_kept_max).await?;
            if dropped == 0 {
                break;
            }
            self.metrics.points_dropped(dropped);
            tracing::warn!(
                dropped,
                "points of connectivity were dropped: no receiver of time series took them in time"
            );
        }
        self.metrics.waiting(self.store.waiting().await?);
        Ok(())
    }
}
