//! The replica tells that it is alive. When it falls silent its endpoints are no longer connected, though it could not
//! say so.

use std::time::Duration;

use async_nats::connection::State;
use ism::Record as _;
use ism::session::{REPLICA_ALIVE, ReplicaAliveEvent};
use runtime::now_ms;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::gateway::Gateway;

/// How often the replica tells that it is alive.
const INTERVAL: Duration = Duration::from_secs(5);
/// Listeners take a replica for dead after four intervals.
const LATE: Duration = Duration::from_secs(15);

impl Gateway {
    /// Tells every few seconds that the replica is alive, until `stopped` is cancelled.
    pub(crate) async fn beat(&self, stopped: CancellationToken) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = Instant::now();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stopped.cancelled() => return,
            }
            // What cannot be told now is no news when it can.
            if self.context.nats().connection_state() != State::Connected {
                continue;
            }
            let event = ReplicaAliveEvent {
                correlation_id: self.relay.correlation_ids.next().to_string(),
                timestamp: now_ms(),
                timeout: 0,
                originator_replica_id: self.replica.to_string(),
                interval_ms: i64::try_from(INTERVAL.as_millis()).unwrap_or(i64::MAX),
            };
            self.notices.publish(REPLICA_ALIVE.of(&self.instance), event.encode());
            // Whoever was held up for so long may have been taken for dead, and its endpoints with it.
            if std::mem::replace(&mut last, Instant::now()).elapsed() > LATE {
                tracing::warn!("this replica was held up: telling anew which endpoints are here");
                self.announce_endpoints();
            }
        }
    }
}
