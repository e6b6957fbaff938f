//! One live connection for each client id, across replicas. Client ids of authenticated clients are their tenant's own;
//! what replicas tell each other as a client id holds the tenant before it then, with a zero between.
//!
//! A replica that a client connects to tells the others, and one that holds an older connection of that client closes
//! it. Two that were made at almost the same time are compared by time and replica id, so that exactly one stays.
//!
//! What is told while a replica is cut off from NATS is lost. So after the reconnection it announces which clients it
//! has, and since when; age says nothing then, and all are compared by time and replica id. A replica whose connection
//! is the newer one announces it in return, so that the other side decides too.

use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use bytes::Bytes;
use ism::Record as _;
use ism::session::{CLIENT_ANNOUNCED, CLIENT_CONNECTED, ClientConnectedEvent};
use tokio_util::sync::CancellationToken;

use crate::connection::Connection;
use crate::gateway::Gateway;

/// A connection older than this by its own replica's clock is older than one that has just been told of, however far
/// the replicas' clocks are apart.
const CERTAINLY_OLDER: Duration = Duration::from_secs(2);
/// How many clients are announced in each period: what other replicas do meanwhile is not to be held up.
const ANNOUNCED_AT_ONCE: usize = 200;
const ANNOUNCING_PERIOD: Duration = Duration::from_millis(50);

/// What a replica hears of a client elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// It has just connected.
    Fresh,
    /// It has been connected for a while.
    Announced,
}

impl Gateway {
    /// Tells the other replicas that a client has connected here.
    pub(crate) fn tell_connected(&self, connection: &Connection) {
        // Without NATS this would come late and as if it were fresh; after the reconnection the client is announced.
        if connection.named && self.context.nats().connection_state() == State::Connected {
            self.notices.publish(CLIENT_CONNECTED.of(&self.instance), self.connected_client(connection));
        }
    }

    /// Where replicas announce their clients to each other.
    pub(crate) fn client_announcement_subject(&self) -> String {
        CLIENT_ANNOUNCED.service(&self.instance)
    }

    /// Announces to the other replicas which clients are here.
    pub(crate) async fn announce_clients(self: Arc<Self>, stopped: CancellationToken) {
        for clients in self.connections.clients().chunks(ANNOUNCED_AT_ONCE) {
            for connection in clients.iter().filter_map(|session| self.connections.client(session)) {
                self.announce_client(&connection);
            }
            tokio::select! {
                () = tokio::time::sleep(ANNOUNCING_PERIOD) => {}
                () = stopped.cancelled() => return,
            }
        }
    }

    fn announce_client(&self, connection: &Connection) {
        self.notices.publish(self.client_announcement_subject(), self.connected_client(connection));
    }

    /// The event does not expire: however late it comes, one of two connections must go.
    fn connected_client(&self, connection: &Connection) -> Bytes {
        let event = ClientConnectedEvent {
            correlation_id: self.relay.correlation_ids.next().to_string(),
            timestamp: connection.since_ms,
            timeout: 0,
            client_id: connection.session.to_string(),
            originator_replica_id: self.replica.to_string(),
        };
        event.encode()
    }

    /// A client is connected to another replica.
    pub(crate) fn hear_client(&self, payload: &Bytes, news: News) {
        let event = match ClientConnectedEvent::decode(payload) {
            Ok(event) => event,
            Err(error) => return tracing::warn!(%error, "a client's connection event cannot be read"),
        };
        if event.originator_replica_id == self.replica.as_str() {
            return;
        }
        self.wills.cancel(&event.client_id);
        let Some(mine) = self.connections.client(&event.client_id) else { return };
        let here = (mine.since_ms, self.replica.as_str());
        let there = (event.timestamp, event.originator_replica_id.as_str());
        if is_older(news, mine.since.elapsed(), here, there) {
            self.connections.take_over(&mine);
        } else if news == News::Announced {
            self.announce_client(&mine);
        }
    }
}

/// Whether the connection here is the older one; each side is its time in ms and its replica id.
fn is_older(news: News, age: Duration, here: (i64, &str), there: (i64, &str)) -> bool {
    (news == News::Fresh && age > CERTAINLY_OLDER) || here < there
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_of_two_young_connections_stays() {
        let young = Duration::from_millis(100);
        for (a, b) in [((5, "a"), (5, "b")), ((5, "b"), (6, "a")), ((7, "a"), (6, "b"))] {
            assert_ne!(is_older(News::Fresh, young, a, b), is_older(News::Fresh, young, b, a));
        }
    }

    #[test]
    fn an_old_connection_goes_whatever_the_clocks_say() {
        assert!(is_older(News::Fresh, Duration::from_secs(3), (10_000, "b"), (1, "a")));
    }

    #[test]
    fn of_two_that_are_announced_exactly_one_stays_however_old_both_are() {
        let old = Duration::from_secs(100);
        let (older, newer) = ((5, "b"), (6, "a"));
        assert!(is_older(News::Announced, old, older, newer));
        assert!(!is_older(News::Announced, old, newer, older));
    }
}
