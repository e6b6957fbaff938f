//! One live connection for each client id, across replicas.
//!
//! A replica that a client connects to tells the others, and one that holds an older connection of that client closes
//! it. Two that were made at almost the same time are compared by time and replica id, so that exactly one stays.

use std::time::Duration;

use bytes::Bytes;
use ism::Record as _;
use ism::session::{CLIENT_CONNECTED, ClientConnectedEvent};
use runtime::now_ms;

use crate::connection::Connection;
use crate::gateway::Gateway;

/// A connection older than this by its own replica's clock is older than one that has just been told of, however far
/// the replicas' clocks are apart.
const CERTAINLY_OLDER: Duration = Duration::from_secs(2);

impl Gateway {
    /// Tells the other replicas that a client has connected here.
    pub(crate) fn tell_connected(&self, connection: &Connection) {
        if !connection.named {
            return;
        }
        let event = ClientConnectedEvent {
            correlation_id: self.relay.correlation_ids.next().to_string(),
            timestamp: connection.since_ms,
            timeout: i64::try_from(self.config.deadline_ms).unwrap_or(i64::MAX),
            client_id: connection.client_id.to_string(),
            originator_replica_id: self.replica.to_string(),
        };
        self.notices.publish(CLIENT_CONNECTED.of(&self.instance), event.encode());
    }

    /// A client has connected to another replica.
    pub(crate) fn hear_client(&self, payload: &Bytes) {
        let event = match ClientConnectedEvent::decode(payload) {
            Ok(event) => event,
            Err(error) => return tracing::warn!(%error, "a client's connection event cannot be read"),
        };
        if event.originator_replica_id == self.replica.as_str() || ism::Envelope::expired(&event, now_ms()) {
            return;
        }
        self.wills.cancel(&event.client_id);
        let Some(mine) = self.connections.client(&event.client_id) else { return };
        let here = (mine.since_ms, self.replica.as_str());
        let there = (event.timestamp, event.originator_replica_id.as_str());
        if is_older(mine.since.elapsed(), here, there) {
            self.connections.take_over(&mine);
        }
    }
}

/// Whether the connection here is the older one; each side is its time in ms and its replica id.
fn is_older(age: Duration, here: (i64, &str), there: (i64, &str)) -> bool {
    age > CERTAINLY_OLDER || here < there
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_of_two_young_connections_stays() {
        let young = Duration::from_millis(100);
        for (a, b) in [((5, "a"), (5, "b")), ((5, "b"), (6, "a")), ((7, "a"), (6, "b"))] {
            assert_ne!(is_older(young, a, b), is_older(young, b, a));
        }
    }

    #[test]
    fn an_old_connection_goes_whatever_the_clocks_say() {
        assert!(is_older(Duration::from_secs(3), (10_000, "b"), (1, "a")));
    }
}
