//! The MQTT connections of this replica, shared by all threads: who is connected, and which endpoints each connection
//! speaks for.
//!
//! An endpoint belongs to a connection from the first message or subscription with one of its tokens. Locks are taken
//! in this order: a connection's state, then its outbox, the map of endpoints or that of subscribers, then what is to be told of them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use ids::{AppVersionName, EndpointId};
use parking_lot::Mutex;

use crate::config::Limits;
use crate::connection::{Attachment, Connection, ConnectionId, Newcomer, Rejected, use_again};
use crate::credentials::Credentials;
use crate::endpoints::Endpoints;
use crate::identity::Identity;
use crate::metrics::Metrics;
use crate::outbox::CloseReason;
use crate::shards::Shards;
use crate::sharing::Connectivity;
use crate::subscribers::Subscribers;
use crate::throttle::network;

/// The keys of the limits that a new connection may reach.
const CONNECTIONS: &str = "kpc.limits.connections";
pub(crate) const CONNECTIONS_PER_ADDRESS: &str = "kpc.limits.connections_per_address";

/// All connections of this replica.
pub(crate) struct Connections {
    limits: Arc<Limits>,
    metrics: Arc<Metrics>,
    next_id: AtomicU64,
    count: AtomicUsize,
    open: Shards<ConnectionId, Arc<Connection>>,
    /// Those whose client chose its id, by session.
    clients: Shards<Arc<str>, Arc<Connection>>,
    credentials: Credentials,
    pub(crate) endpoints: Endpoints,
    pub(crate) subscribers: Subscribers,
    /// Of IPv6 the first half.
    addresses: Mutex<HashMap<IpAddr, usize>>,
}

impl Connections {
    pub(crate) fn new(limits: Arc<Limits>, metrics: Arc<Metrics>, connectivity: Arc<Connectivity>) -> Self {
        Self {
            limits,
            metrics,
            next_id: AtomicU64::new(1),
            count: AtomicUsize::new(0),
            open: Shards::new(),
            clients: Shards::new(),
            credentials: Credentials::new(),
            endpoints: Endpoints::new(connectivity),
            subscribers: Subscribers::new(),
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
            let count = addresses.entry(network(address)).or_default();
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
        if let Some(client) = &connection.client {
            self.credentials.add(connection.id, client);
        }
        if connection.named {
            let session = connection.session.clone();
            let older = self.clients.lock(&session).insert(session, connection.clone());
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
    pub(crate) fn client(&self, session: &str) -> Option<Arc<Connection>> {
        self.clients.lock(session).get(session).cloned()
    }

    /// The sessions of the clients that chose their ids themselves.
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
        if let Some(client) = &connection.client {
            self.credentials.remove(connection.id, client);
        }
        {
            // A newer connection of the same client stays.
            let mut clients = self.clients.lock(&connection.session);
            if clients.get(&connection.session).is_some_and(|current| current.id == connection.id) {
                clients.remove(&connection.session);
            }
        }
        self.release_address(connection.address);
        let mut state = connection.state.lock();
        state.ended = true;
        state.held = Vec::new();
        for subscription in std::mem::take(&mut state.subscriptions) {
            self.forget_subscriber(connection, &subscription);
        }
        let endpoints = std::mem::take(&mut state.endpoints).into_keys();
        // Told together.
        let _together = self.endpoints.together();
        endpoints.filter_map(|endpoint| self.endpoints.leave(connection, endpoint)).collect()
    }

    fn release_address(&self, address: Option<IpAddr>) {
        let Some(address) = address else { return };
        if let Entry::Occupied(mut count) = self.addresses.lock().entry(network(address)) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    /// Attaches an endpoint to a connection, and notes that it came online with that. Returns whether it did.
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
        Ok(self.endpoints.enter(connection, endpoint, app_version))
    }

    /// Closes the connections that use revoked tokens of an endpoint.
    pub(crate) fn revoke(&self, endpoint: &EndpointId, token_ids: &[String]) {
        for connection in self.endpoints.of(endpoint) {
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

    /// Closes the connections that live on revoked credentials.
    pub(crate) fn revoke_credentials(&self, credentials_id: &str) {
        for id in self.credentials.users(credentials_id) {
            let Some(connection) = self.get(id) else { continue };
            tracing::info!(
                client_id = &*connection.client_id,
                credentials_id,
                "closing a connection: its client's credentials are revoked"
            );
            self.metrics.closed("credentials");
            connection.close(CloseReason::CredentialsRevoked);
        }
    }

    /// Closes the connections whose client's certificate is valid no longer; `now` in ms since 1970.
    pub(crate) fn close_expired(&self, now: i64) {
        for id in self.credentials.take_expired(now) {
            let Some(connection) = self.get(id) else { continue };
            tracing::info!(
                client_id = &*connection.client_id,
                "closing a connection: its client's certificate has expired"
            );
            self.metrics.closed("certificate");
            connection.close(CloseReason::CertificateExpired);
        }
    }

    /// An open connection.
    pub(crate) fn get(&self, id: ConnectionId) -> Option<Arc<Connection>> {
        self.open.lock(&id).get(&id).cloned()
    }

    /// Looks at every open connection; what it does must be short.
    pub(crate) fn each(&self, mut look: impl FnMut(&Arc<Connection>)) {
        for map in self.open.each() {
            map.values().for_each(&mut look);
        }
    }

    /// How many connections are open.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Closes every connection after what waits for its client has been written.
    pub(crate) fn finish_all(&self, reason: CloseReason) {
        self.each(|connection| connection.finish(reason));
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::clients::tests::client;
    use crate::identity::Identity;
    use crate::limits::Rate;
    use crate::outbox::{Outgoing, Qos, Wake, Worker};
    use crate::peer::Transport;
    use ids::EndpointToken;

    pub(crate) fn connections(limits: Limits) -> Connections {
        Connections::new(Arc::new(limits), Arc::new(Metrics::new()), Arc::default())
    }

    pub(crate) fn newcomer(client_id: Option<&str>) -> (Newcomer, Arc<Worker>) {
        let worker = Arc::new(Worker::default());
        let address = Some(IpAddr::from([127, 0, 0, 1]));
        let client_id = client_id.map(Arc::from);
        let transport = Transport::Tcp;
        (Newcomer { client_id, address, transport, client: None, worker: worker.clone() }, worker)
    }

    pub(crate) fn identity(endpoint: &str, token: &str) -> Arc<Identity> {
        Arc::new(Identity {
            endpoint: EndpointId::parse(endpoint).unwrap(),
            token: EndpointToken::parse(token).unwrap(),
            token_id: Some(ids::TokenId::parse(token).unwrap()),
            last_from: AtomicU64::new(0),
            rate: Rate::new(10),
            traffic: Arc::default(),
        })
    }

    pub(crate) fn version() -> AppVersionName {
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
    fn half_an_ipv6_address_is_one_address() {
        let all = connections(Limits { connections_per_address: 2, ..Limits::default() });
        let from = |address: &str| Newcomer { address: address.parse().ok(), ..newcomer(None).0 };
        let one = all.open(from("2001:db8::1")).unwrap();
        let _two = all.open(from("2001:db8::2")).unwrap();
        assert!(all.open(from("2001:db8::3")).is_err() && all.open(from("2001:db8:0:1::3")).is_ok());
        all.end(&one);
        assert!(all.open(from("2001:db8::3")).is_ok());
    }

    #[test]
    fn an_endpoint_is_here_from_its_first_connection_to_its_last() {
        let all = connections(Limits::default());
        let (a, b) = (all.open(newcomer(None).0).unwrap(), all.open(newcomer(None).0).unwrap());
        let one = identity("e1", "t1");
        assert_eq!(all.attach(&a, &version(), &one), Ok(true));
        assert_eq!(all.attach(&a, &version(), &one), Ok(false));
        assert_eq!(all.attach(&b, &version(), &one), Ok(false));
        assert_eq!(all.endpoints.of(&one.endpoint).len(), 2);
        assert_eq!(all.end(&a), []);
        assert_eq!(all.end(&b), [(one.endpoint.clone(), version())]);
        assert_eq!(all.end(&b), []);
        assert!(all.endpoints.of(&one.endpoint).is_empty());
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

    #[tokio::test]
    async fn nobody_takes_over_a_client_that_has_shown_more() {
        let all = connections(Limits::default());
        let known = |basic| {
            let (newcomer, worker) = newcomer(Some("c"));
            (Newcomer { client: Some(Box::new(client(Some(basic), None))), ..newcomer }, worker)
        };
        let (first, worker) = known("b1");
        let first = all.open(first).unwrap();
        let stranger = all.open(newcomer(Some("c")).0).unwrap();
        let same_tenant = all.open(known("b2").0).unwrap();
        // Only the last one concerns the first one.
        assert_eq!(worker.woken().await, [Wake::Close(first.id, CloseReason::TakenOver)]);
        assert_eq!(all.client("c").unwrap().id, stranger.id);
        assert_eq!(all.client("acme\0c").unwrap().id, same_tenant.id);
    }

    #[tokio::test]
    async fn revoked_credentials_and_expired_certificates_end_their_connections() {
        let all = connections(Limits::default());
        let open = |basic, certificate| {
            let (newcomer, worker) = newcomer(None);
            let client = Some(Box::new(client(basic, certificate)));
            (all.open(Newcomer { client, ..newcomer }).unwrap(), worker)
        };
        let (one, woken_one) = open(Some("b1"), None);
        let (two, woken_two) = open(Some("b2"), Some("c"));
        let (three, woken_three) = open(Some("b2"), None);
        all.revoke_credentials("b1");
        assert_eq!(woken_one.woken().await, [Wake::Close(one.id, CloseReason::CredentialsRevoked)]);
        assert!(!one.is_trusted() && two.is_trusted());
        all.close_expired(i64::MAX);
        assert_eq!(woken_two.woken().await, [Wake::Close(two.id, CloseReason::CertificateExpired)]);
        all.end(&one);
        all.revoke_credentials("b2");
        assert_eq!(woken_three.woken().await, [Wake::Close(three.id, CloseReason::CredentialsRevoked)]);
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_closed_once() {
        let all = connections(Limits { outbox_messages: 2, ..Limits::default() });
        let (slow, woken) = newcomer(None);
        let slow = all.open(slow).unwrap();
        let message = || Outgoing::new("t".into(), bytes::Bytes::new(), Qos::AtMostOnce);
        assert_eq!((0..5).map(|_| slow.send(message())).filter(|taken| *taken).count(), 2);
        assert_eq!(woken.woken().await, [Wake::Send(slow.id), Wake::Close(slow.id, CloseReason::SlowReader)]);
    }
}
