//! The MQTT connections of this replica, shared by all threads: who is connected, which endpoints each connection
//! speaks for, and which connections an endpoint has.
//!
//! An endpoint belongs to a connection from the first message or subscription with one of its tokens. Locks are taken
//! in this order: a connection's state, then the map of endpoints.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use ids::{AppVersionName, EndpointId, ReplicaId};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::config::Limits;
use crate::connection::{Attachment, Connection, ConnectionId, Newcomer, Rejected, use_again};
use crate::identity::Identity;
use crate::metrics::Metrics;
use crate::outbox::CloseReason;
use crate::shards::Shards;

/// How long after an endpoint came its responses go to all replicas: they have not yet told each other that they share it.
const FRESH: Duration = Duration::from_secs(2);
/// Other replicas that are remembered for one endpoint.
const OTHERS_MAX: usize = 16;

/// The keys of the limits that a new connection may reach.
const CONNECTIONS: &str = "kpc.limits.connections";
pub(crate) const CONNECTIONS_PER_ADDRESS: &str = "kpc.limits.connections_per_address";

/// An endpoint that is here.
#[derive(Debug)]
struct Presence {
    connections: Vec<Arc<Connection>>,
    app_version: AppVersionName,
    since: Instant,
    /// Other replicas that have it too.
    others: Vec<ReplicaId>,
}

/// To which other replicas a response goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Elsewhere {
    Nobody,
    Replicas(Vec<ReplicaId>),
    /// It is not known yet who else has the endpoint.
    Everybody,
}

/// All connections of this replica.
pub(crate) struct Connections {
    limits: Arc<Limits>,
    metrics: Arc<Metrics>,
    next_id: AtomicU64,
    count: AtomicUsize,
    open: Shards<ConnectionId, Arc<Connection>>,
    clients: Shards<Arc<str>, Arc<Connection>>,
    endpoints: Shards<EndpointId, Presence>,
    addresses: Mutex<HashMap<IpAddr, usize>>,
}

impl Connections {
    pub(crate) fn new(limits: Arc<Limits>, metrics: Arc<Metrics>) -> Self {
        Self {
            limits,
            metrics,
            next_id: AtomicU64::new(1),
            count: AtomicUsize::new(0),
            open: Shards::new(),
            clients: Shards::new(),
            endpoints: Shards::new(),
            addresses: Mutex::default(),
        }
    }

    /// Adds a connection and closes an older one of the same client.
    ///
    /// # Errors
    /// The key of the limit that is reached.
    pub(crate) fn open(&self, newcomer: Newcomer) -> Result<Arc<Connection>, &'static str> {
        if self.count.fetch_add(1, Ordering::AcqRel) >= self.limits.connections {
            self.count.fetch_sub(1, Ordering::AcqRel);
            return Err(CONNECTIONS);
        }
        if let Some(address) = newcomer.address {
            let mut addresses = self.addresses.lock();
            let count = addresses.entry(address).or_default();
            if *count >= self.limits.connections_per_address {
                self.count.fetch_sub(1, Ordering::AcqRel);
                return Err(CONNECTIONS_PER_ADDRESS);
            }
            *count += 1;
        }
        let number = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (limits, metrics) = (self.limits.clone(), self.metrics.clone());
        let connection = Arc::new(Connection::new(number, newcomer, limits, metrics));
        self.open.lock(&connection.id).insert(connection.id, connection.clone());
        self.metrics.connections(1);
        if connection.named {
            let client_id = connection.client_id.clone();
            let older = self.clients.lock(&client_id).insert(client_id, connection.clone());
            if let Some(older) = older {
                self.take_over(&older);
            }
        }
        Ok(connection)
    }

    /// Closes a connection whose client has connected anew.
    pub(crate) fn take_over(&self, older: &Connection) {
        self.metrics.take_over();
        tracing::debug!(client_id = &*older.client_id, "closing a connection: its client has connected anew");
        older.close(CloseReason::TakenOver);
    }

    /// The connection of a client.
    pub(crate) fn client(&self, client_id: &str) -> Option<Arc<Connection>> {
        self.clients.lock(client_id).get(client_id).cloned()
    }

    /// The ids of the clients that chose theirs themselves.
    pub(crate) fn clients(&self) -> Vec<Arc<str>> {
        self.clients.each().flat_map(|map| map.keys().cloned().collect::<Vec<_>>()).collect()
    }

    /// Removes a connection that has ended. Returns the endpoints that have no other connection here.
    pub(crate) fn end(&self, connection: &Arc<Connection>) -> Vec<(EndpointId, AppVersionName)> {
        if self.open.lock(&connection.id).remove(&connection.id).is_none() {
            return Vec::new();
        }
        self.count.fetch_sub(1, Ordering::AcqRel);
        self.metrics.connections(-1);
        connection.discard();
        {
            // A newer connection of the same client stays.
            let mut clients = self.clients.lock(&connection.client_id);
            if clients.get(&connection.client_id).is_some_and(|current| current.id == connection.id) {
                clients.remove(&connection.client_id);
            }
        }
        self.release_address(connection.address);
        let mut state = connection.state.lock();
        state.ended = true;
        state.subscriptions = Vec::new();
        let mut gone = Vec::new();
        for endpoint in std::mem::take(&mut state.endpoints).into_keys() {
            let mut endpoints = self.endpoints.lock(&endpoint);
            if let Some(presence) = endpoints.get_mut(&endpoint) {
                presence.connections.retain(|other| other.id != connection.id);
                if presence.connections.is_empty() {
                    let presence = endpoints.remove(&endpoint);
                    drop(endpoints);
                    gone.extend(presence.map(|presence| (endpoint, presence.app_version)));
                }
            }
        }
        gone
    }

    fn release_address(&self, address: Option<IpAddr>) {
        let Some(address) = address else { return };
        if let Entry::Occupied(mut count) = self.addresses.lock().entry(address) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    /// Attaches an endpoint to a connection. Returns whether it is the endpoint's first here.
    pub(crate) fn attach(
        &self,
        connection: &Arc<Connection>,
        app_version: &AppVersionName,
        identity: &Arc<Identity>,
    ) -> Result<bool, Rejected> {
        let mut state = connection.state.lock();
        if state.ended {
            return Err(Rejected::Ended);
        }
        let endpoint = &identity.endpoint;
        if let Some(attachments) = state.endpoints.get_mut(endpoint) {
            use_again(attachments, app_version, identity);
            return Ok(false);
        }
        if state.endpoints.len() >= self.limits.endpoints_per_connection {
            return Err(Rejected::TooManyEndpoints(self.limits.endpoints_per_connection));
        }
        let attachment = Attachment { app_version: app_version.clone(), identity: identity.clone() };
        state.endpoints.insert(endpoint.clone(), vec![attachment]);
        let mut endpoints = self.endpoints.lock(endpoint);
        match endpoints.entry(endpoint.clone()) {
            Entry::Occupied(mut presence) => {
                presence.get_mut().connections.push(connection.clone());
                Ok(false)
            }
            Entry::Vacant(place) => {
                place.insert(Presence {
                    connections: vec![connection.clone()],
                    app_version: app_version.clone(),
                    since: Instant::now(),
                    others: Vec::new(),
                });
                Ok(true)
            }
        }
    }

    /// The connections of an endpoint.
    pub(crate) fn of(&self, endpoint: &EndpointId) -> Vec<Arc<Connection>> {
        self.endpoints
            .lock(endpoint)
            .get(endpoint)
            .map(|presence| presence.connections.clone())
            .unwrap_or_default()
    }

    /// Who may want to hear a response beside the connection that asked: other connections here with subscriptions, and
    /// other replicas.
    pub(crate) fn listeners(
        &self,
        endpoint: &EndpointId,
        asker: Option<ConnectionId>,
    ) -> (Vec<Arc<Connection>>, Elsewhere) {
        let (mut here, elsewhere) = {
            let endpoints = self.endpoints.lock(endpoint);
            let Some(presence) = endpoints.get(endpoint) else { return (Vec::new(), Elsewhere::Everybody) };
            let elsewhere = if presence.since.elapsed() < FRESH {
                Elsewhere::Everybody
            } else if presence.others.is_empty() {
                Elsewhere::Nobody
            } else {
                Elsewhere::Replicas(presence.others.clone())
            };
            let others = presence.connections.iter().filter(|connection| Some(connection.id) != asker);
            (others.cloned().collect::<Vec<_>>(), elsewhere)
        };
        here.retain(|connection| connection.has_subscriptions());
        (here, elsewhere)
    }

    /// Another replica has the endpoint too. Returns the endpoint's version when it is here and this is news.
    pub(crate) fn shared(&self, endpoint: &EndpointId, with: &ReplicaId) -> Option<AppVersionName> {
        let mut endpoints = self.endpoints.lock(endpoint);
        let presence = endpoints.get_mut(endpoint)?;
        if presence.others.contains(with) {
            return None;
        }
        // Replicas that have died do not say so; a living one that goes for them is noted again when it is heard of.
        if presence.others.len() >= OTHERS_MAX {
            presence.others.remove(0);
        }
        presence.others.push(with.clone());
        Some(presence.app_version.clone())
    }

    /// The version of an endpoint that is here.
    pub(crate) fn version(&self, endpoint: &EndpointId) -> Option<AppVersionName> {
        self.endpoints.lock(endpoint).get(endpoint).map(|presence| presence.app_version.clone())
    }

    /// Another replica has the endpoint no more.
    pub(crate) fn unshared(&self, endpoint: &EndpointId, with: &ReplicaId) {
        if let Some(presence) = self.endpoints.lock(endpoint).get_mut(endpoint) {
            presence.others.retain(|other| other != with);
        }
    }

    /// Every endpoint that is here, with its version.
    pub(crate) fn endpoints(&self) -> Vec<(EndpointId, AppVersionName)> {
        let maps = self.endpoints.each();
        maps.flat_map(|map| {
            map.iter()
                .map(|(endpoint, presence)| (endpoint.clone(), presence.app_version.clone()))
                .collect::<Vec<_>>()
        })
        .collect()
    }

    /// Closes the connections that use revoked tokens of an endpoint.
    pub(crate) fn revoke(&self, endpoint: &EndpointId, token_ids: &[String]) {
        for connection in self.of(endpoint) {
            let revoked = connection.attachments(endpoint).iter().any(|attachment| {
                let token_id = attachment.identity.token_id.as_ref();
                token_id.is_none_or(|id| token_ids.iter().any(|revoked| revoked == id.as_str()))
            });
            if revoked {
                tracing::info!(client_id = &*connection.client_id, %endpoint, "closing a connection: its token is revoked");
                connection.close(CloseReason::Revoked);
            }
        }
    }

    /// How many connections are open.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Closes every connection after what waits for its client has been written.
    pub(crate) fn finish_all(&self, reason: CloseReason) {
        for map in self.open.each() {
            map.values().for_each(|connection| connection.finish(reason));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use crate::limits::Rate;
    use crate::outbox::{Outgoing, Qos, Wake, Worker};
    use ids::EndpointToken;

    fn connections(limits: Limits) -> Connections {
        Connections::new(Arc::new(limits), Arc::new(Metrics::new()))
    }

    fn newcomer(client_id: Option<&str>) -> (Newcomer, Arc<Worker>) {
        let worker = Arc::new(Worker::default());
        let address = Some(IpAddr::from([127, 0, 0, 1]));
        (Newcomer { client_id: client_id.map(Arc::from), address, worker: worker.clone() }, worker)
    }

    fn identity(endpoint: &str, token: &str) -> Arc<Identity> {
        Arc::new(Identity {
            endpoint: EndpointId::parse(endpoint).unwrap(),
            token: EndpointToken::parse(token).unwrap(),
            token_id: Some(ids::TokenId::parse(token).unwrap()),
            rate: Rate::new(10),
        })
    }

    fn version() -> AppVersionName {
        AppVersionName::parse("demo-v1").unwrap()
    }

    #[tokio::test]
    async fn a_client_that_connects_anew_closes_its_older_connection() {
        let all = connections(Limits::default());
        let (first, worker) = newcomer(Some("c"));
        let older = all.open(first).unwrap();
        let newer = all.open(newcomer(Some("c")).0).unwrap();
        assert_eq!(worker.woken().await, [Wake::Close(older.id, CloseReason::TakenOver)]);
        // The late end of the older one does not remove the newer one.
        all.end(&older);
        assert_eq!(all.client("c").unwrap().id, newer.id);
        all.end(&newer);
        assert!(all.client("c").is_none());
        assert_eq!(all.count(), 0);
    }

    #[test]
    fn limits_hold_and_are_given_back() {
        let all = connections(Limits { connections: 3, connections_per_address: 2, ..Limits::default() });
        let one = all.open(newcomer(None).0).unwrap();
        let _two = all.open(newcomer(None).0).unwrap();
        assert_eq!(all.open(newcomer(None).0).unwrap_err(), "kpc.limits.connections_per_address");
        all.end(&one);
        assert!(all.open(newcomer(None).0).is_ok());
        let elsewhere = |last| Newcomer { address: Some(IpAddr::from([10, 0, 0, last])), ..newcomer(None).0 };
        assert!(all.open(elsewhere(1)).is_ok());
        assert_eq!(all.open(elsewhere(2)).unwrap_err(), "kpc.limits.connections");
    }

    #[test]
    fn an_endpoint_is_here_from_its_first_connection_to_its_last() {
        let all = connections(Limits::default());
        let (a, b) = (all.open(newcomer(None).0).unwrap(), all.open(newcomer(None).0).unwrap());
        let one = identity("e1", "t1");
        assert_eq!(all.attach(&a, &version(), &one), Ok(true));
        assert_eq!(all.attach(&a, &version(), &one), Ok(false));
        assert_eq!(all.attach(&b, &version(), &one), Ok(false));
        assert_eq!(all.of(&one.endpoint).len(), 2);
        assert_eq!(all.end(&a), []);
        assert_eq!(all.end(&b), [(one.endpoint.clone(), version())]);
        assert_eq!(all.end(&b), []);
        assert!(all.of(&one.endpoint).is_empty());
        assert_eq!(all.attach(&b, &version(), &one), Err(Rejected::Ended));
    }

    #[test]
    fn a_connection_speaks_for_a_limited_number_of_endpoints() {
        let all = connections(Limits { endpoints_per_connection: 1, ..Limits::default() });
        let connection = all.open(newcomer(None).0).unwrap();
        assert_eq!(all.attach(&connection, &version(), &identity("e1", "t1")), Ok(true));
        assert_eq!(all.attach(&connection, &version(), &identity("e1", "t2")), Ok(false));
        let rejected = all.attach(&connection, &version(), &identity("e2", "t3"));
        assert_eq!(rejected, Err(Rejected::TooManyEndpoints(1)));
        let tokens = connection.attachments(&EndpointId::parse("e1").unwrap());
        assert_eq!(tokens.last().unwrap().identity.token.as_str(), "t2");
    }

    #[tokio::test]
    async fn a_revoked_token_ends_only_the_connections_that_use_it() {
        let all = connections(Limits::default());
        let ((a, woken_a), (b, woken_b)) = (newcomer(None), newcomer(None));
        let (a, b) = (all.open(a).unwrap(), all.open(b).unwrap());
        all.attach(&a, &version(), &identity("e1", "t1")).unwrap();
        all.attach(&b, &version(), &identity("e1", "t2")).unwrap();
        all.revoke(&EndpointId::parse("e1").unwrap(), &["t1".to_owned()]);
        assert_eq!(woken_a.woken().await, [Wake::Close(a.id, CloseReason::Revoked)]);
        b.finish(CloseReason::Stopping);
        assert_eq!(woken_b.woken().await, [Wake::Send(b.id)]);
    }

    #[test]
    fn who_else_listens_depends_on_subscriptions_and_replicas() {
        let all = connections(Limits::default());
        let (a, b) = (all.open(newcomer(None).0).unwrap(), all.open(newcomer(None).0).unwrap());
        let one = identity("e1", "t1");
        assert_eq!(all.listeners(&one.endpoint, None).1, Elsewhere::Everybody);
        all.attach(&a, &version(), &one).unwrap();
        all.attach(&b, &version(), &one).unwrap();
        assert!(all.listeners(&one.endpoint, Some(a.id)).0.is_empty());
        b.subscribe(kp1::TopicFilter::parse("kp1/demo-v1/+/t1/#").unwrap(), Qos::AtLeastOnce).unwrap();
        let (here, elsewhere) = all.listeners(&one.endpoint, Some(a.id));
        assert_eq!((here[0].id, elsewhere), (b.id, Elsewhere::Everybody));
        all.endpoints.lock(&one.endpoint).get_mut(&one.endpoint).unwrap().since -= FRESH;
        assert_eq!(all.listeners(&one.endpoint, Some(b.id)), (vec![], Elsewhere::Nobody));
        let other = ReplicaId::parse("kpc-2").unwrap();
        assert_eq!(all.shared(&one.endpoint, &other), Some(version()));
        assert_eq!(all.shared(&one.endpoint, &other), None);
        assert_eq!(all.listeners(&one.endpoint, Some(b.id)).1, Elsewhere::Replicas(vec![other.clone()]));
        all.unshared(&one.endpoint, &other);
        assert_eq!(all.listeners(&one.endpoint, Some(b.id)).1, Elsewhere::Nobody);
    }

    #[test]
    fn the_latest_replicas_that_share_an_endpoint_are_remembered() {
        let all = connections(Limits::default());
        let connection = all.open(newcomer(None).0).unwrap();
        let one = identity("e1", "t1");
        all.attach(&connection, &version(), &one).unwrap();
        all.endpoints.lock(&one.endpoint).get_mut(&one.endpoint).unwrap().since -= FRESH;
        let replica = |number: usize| ReplicaId::parse(&format!("kpc-{number}")).unwrap();
        for number in 0..=OTHERS_MAX {
            assert_eq!(all.shared(&one.endpoint, &replica(number)), Some(version()));
        }
        let latest = (1..=OTHERS_MAX).map(replica).collect();
        assert_eq!(all.listeners(&one.endpoint, None).1, Elsewhere::Replicas(latest));
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_closed_once() {
        let all = connections(Limits { outbox_messages: 2, ..Limits::default() });
        let (slow, woken) = newcomer(None);
        let slow = all.open(slow).unwrap();
        let message = || Outgoing {
            topic: "t".into(),
            payload: bytes::Bytes::new(),
            qos: Qos::AtMostOnce,
            correlation_data: None,
            receipt: None,
        };
        assert_eq!((0..5).map(|_| slow.send(message())).filter(|taken| *taken).count(), 2);
        assert_eq!(woken.woken().await, [Wake::Send(slow.id), Wake::Close(slow.id, CloseReason::SlowReader)]);
    }
}
