//! Which connections live on which credentials, so that they end with them.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use runtime::now_ms;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::clients::Client;
use crate::connection::ConnectionId;
use crate::gateway::Gateway;
use crate::shards::Shards;

/// How often expired certificates are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The id under which credentials are managed; not a secret.
pub(crate) type CredentialsId = Arc<str>;

/// The connections of authenticated clients.
#[derive(Debug)]
pub(crate) struct Credentials {
    users: Shards<CredentialsId, HashSet<ConnectionId>>,
    /// Connections with a certificate, by the end of its validity in ms since 1970.
    expiring: Mutex<BTreeSet<(i64, ConnectionId)>>,
}

impl Credentials {
    pub(crate) fn new() -> Self {
        Self { users: Shards::new(), expiring: Mutex::default() }
    }

    pub(crate) fn add(&self, id: ConnectionId, client: &Client) {
        for credentials in client.credentials() {
            self.users.lock(credentials).entry(credentials.clone()).or_default().insert(id);
        }
        if let Some(certified) = &client.certificate {
            self.expiring.lock().insert((certified.certificate.not_after, id));
        }
    }

    pub(crate) fn remove(&self, id: ConnectionId, client: &Client) {
        for credentials in client.credentials() {
            if let Entry::Occupied(mut users) = self.users.lock(credentials).entry(credentials.clone()) {
                users.get_mut().remove(&id);
                if users.get().is_empty() {
                    users.remove();
                }
            }
        }
        if let Some(certified) = &client.certificate {
            self.expiring.lock().remove(&(certified.certificate.not_after, id));
        }
    }

    /// The connections that live on these credentials.
    pub(crate) fn users(&self, credentials_id: &str) -> Vec<ConnectionId> {
        let users = self.users.lock(credentials_id);
        users.get(credentials_id).map(|users| users.iter().copied().collect()).unwrap_or_default()
    }

    /// Takes out the connections whose certificate is valid no longer; `now` in ms since 1970.
    pub(crate) fn take_expired(&self, now: i64) -> Vec<ConnectionId> {
        let mut expiring = self.expiring.lock();
        let valid = expiring.split_off(&(now, ConnectionId(0)));
        let expired = std::mem::replace(&mut *expiring, valid);
        expired.into_iter().map(|(_, id)| id).collect()
    }
}

impl Gateway {
    /// Ends sessions with the validity of their certificates, until the service stops.
    pub(crate) async fn end_expired(self: Arc<Self>, stopping: CancellationToken) -> anyhow::Result<()> {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = looks.tick() => self.connections.close_expired(now_ms()),
                () = stopping.cancelled() => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::tests::client;

    #[test]
    fn connections_are_found_by_each_of_their_credentials_until_they_end() {
        let all = Credentials::new();
        let (one, both) = (client(Some("b"), None), client(Some("b"), Some("c")));
        all.add(ConnectionId(1), &one);
        all.add(ConnectionId(2), &both);
        assert_eq!(all.users("b").len(), 2);
        assert_eq!(all.users("c"), [ConnectionId(2)]);
        all.remove(ConnectionId(2), &both);
        assert_eq!((all.users("b"), all.users("c")), (vec![ConnectionId(1)], vec![]));
        all.remove(ConnectionId(1), &one);
        assert!(all.users.each().all(|map| map.is_empty()) && all.expiring.lock().is_empty());
    }

    #[test]
    fn a_certificate_ends_at_its_time_and_once() {
        let all = Credentials::new();
        let certified = client(None, Some("c"));
        let not_after = certified.certificate.as_ref().unwrap().certificate.not_after;
        all.add(ConnectionId(7), &certified);
        assert_eq!(all.take_expired(not_after), []);
        assert_eq!(all.take_expired(not_after + 1), [ConnectionId(7)]);
        assert_eq!(all.take_expired(not_after + 1), []);
    }
}
