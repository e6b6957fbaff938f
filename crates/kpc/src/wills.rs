//! Wills: what a client leaves to be sent when its connection ends without a farewell.
//!
//! A will is a 1/KP message like any other and relayed like one. MQTT 5 clients may delay it; when the same client is
//! back before that, here or on another replica, it is not sent.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::clients::{Mark, Sender};
use crate::connection::Connection;
use crate::gateway::Gateway;
use crate::uplink::Publication;

/// A message to be sent when the connection ends.
#[derive(Debug)]
pub(crate) struct Will {
    pub(crate) publication: Publication,
    pub(crate) delay: Duration,
}

/// Wills that wait for their delay, by session: client ids of authenticated clients are their tenant's own.
#[derive(Debug, Default)]
pub(crate) struct Wills {
    waiting: Mutex<HashMap<Arc<str>, CancellationToken>>,
}

impl Wills {
    /// The client is back: its will is not sent.
    pub(crate) fn cancel(&self, session: &str) {
        if let Some(waiting) = self.waiting.lock().remove(session) {
            waiting.cancel();
        }
    }

    /// Adds a waiting will; none when too many wait.
    fn wait(&self, session: &Arc<str>, max: usize) -> Option<CancellationToken> {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= max && !waiting.contains_key(session) {
            return None;
        }
        let cancelled = CancellationToken::new();
        if let Some(older) = waiting.insert(session.clone(), cancelled.clone()) {
            older.cancel();
        }
        Some(cancelled)
    }

    /// Takes a waiting will out; false when it has been cancelled, so that the entry is gone or another one's.
    fn take(&self, session: &Arc<str>, cancelled: &CancellationToken) -> bool {
        let mut waiting = self.waiting.lock();
        if cancelled.is_cancelled() {
            return false;
        }
        waiting.remove(session);
        true
    }
}

impl Gateway {
    /// Sends a will of a connection that has ended, now or after its delay, unless its client could not be connected any
    /// more by then. The mark was taken before the connection ended.
    pub(crate) fn execute(self: &Arc<Self>, will: Will, connection: Arc<Connection>, mark: Mark) {
        let gateway = self.clone();
        let limits = &self.config.limits;
        let delay = will.delay.min(Duration::from_secs(limits.will_delay_max_s.into()));
        let session = connection.session.clone();
        // A client whose id we chose cannot come back under it.
        let is_delayed = !delay.is_zero() && connection.named;
        let cancelled = if is_delayed { self.wills.wait(&session, limits.delayed_wills) } else { None };
        // A client that comes from now on finds the will and cancels it; one that is back already has not seen it.
        if is_delayed && self.connections.client(&session).is_some() {
            if let Some(cancelled) = &cancelled {
                self.wills.take(&session, cancelled);
            }
            return;
        }
        self.spawn(async move {
            if let Some(cancelled) = cancelled {
                tokio::select! {
                    () = cancelled.cancelled() => return,
                    // A gateway that stops cannot wait; better too early than never.
                    () = gateway.draining.cancelled() => {}
                    () = tokio::time::sleep(delay) => {}
                }
                if !gateway.wills.take(&session, &cancelled) {
                    return;
                }
            }
            if !gateway.clients.is_good(mark, &connection) {
                return;
            }
            let deadline = gateway.deadline(will.publication.expiry);
            gateway.publish(Sender::Gone(&connection), will.publication, deadline).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_is_back_cancels_its_will() {
        let wills = Wills::default();
        let client: Arc<str> = "c".into();
        let waiting = wills.wait(&client, 1).unwrap();
        assert!(wills.wait(&"d".into(), 1).is_none());
        wills.cancel("c");
        assert!(waiting.is_cancelled());
        let waiting = wills.wait(&"d".into(), 1).unwrap();
        assert!(wills.take(&"d".into(), &waiting));
        // A newer will of the same client is not taken out with an older one.
        let (older, newer) = (wills.wait(&client, 1).unwrap(), wills.wait(&client, 1).unwrap());
        assert!(!wills.take(&client, &older) && wills.take(&client, &newer));
        assert!(wills.waiting.lock().is_empty());
    }
}
