//! The endpoints that are here: which connections each has, and which other replicas have it too.
//!
//! That an endpoint has come or gone is noted before the map is unlocked, so that it is told in the order in which it
//! happened.

use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use ids::{AppVersionName, EndpointId, ReplicaId};
use parking_lot::RwLockReadGuard;
use tokio::time::Instant;

use crate::connection::{Connection, ConnectionId};
use crate::shards::Shards;
use crate::sharing::Connectivity;

/// How long after an endpoint came its responses go to all replicas: they have not yet told each other that they share it.
const FRESH: Duration = Duration::from_secs(2);
/// Other replicas that are remembered for one endpoint.
const OTHERS_MAX: usize = 16;

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

/// All endpoints that are here.
pub(crate) struct Endpoints {
    present: Shards<EndpointId, Presence>,
    connectivity: Arc<Connectivity>,
}

impl Endpoints {
    pub(crate) fn new(connectivity: Arc<Connectivity>) -> Self {
        Self { present: Shards::new(), connectivity }
    }

    /// What comes and goes until the result is dropped is told together.
    pub(crate) fn together(&self) -> RwLockReadGuard<'_, ()> {
        self.connectivity.together()
    }

    /// Notes that a connection has an endpoint; returns whether that is the endpoint's first here.
    pub(crate) fn enter(
        &self,
        connection: &Arc<Connection>,
        endpoint: &EndpointId,
        app_version: &AppVersionName,
    ) -> bool {
        match self.present.lock(endpoint).entry(endpoint.clone()) {
            Entry::Occupied(mut presence) => {
                presence.get_mut().connections.push(connection.clone());
                false
            }
            Entry::Vacant(place) => {
                place.insert(Presence {
                    connections: vec![connection.clone()],
                    app_version: app_version.clone(),
                    since: Instant::now(),
                    others: Vec::new(),
                });
                self.connectivity.up(endpoint, app_version);
                true
            }
        }
    }

    /// Takes an endpoint from a connection; returns it when it has no other connection here.
    pub(crate) fn leave(
        &self,
        connection: &Connection,
        endpoint: EndpointId,
    ) -> Option<(EndpointId, AppVersionName)> {
        let mut endpoints = self.present.lock(&endpoint);
        let presence = endpoints.get_mut(&endpoint)?;
        presence.connections.retain(|other| other.id != connection.id);
        if !presence.connections.is_empty() {
            return None;
        }
        let app_version = endpoints.remove(&endpoint)?.app_version;
        self.connectivity.down(&endpoint, &app_version);
        drop(endpoints);
        Some((endpoint, app_version))
    }

    /// The connections of an endpoint.
    pub(crate) fn of(&self, endpoint: &EndpointId) -> Vec<Arc<Connection>> {
        self.present
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
            let endpoints = self.present.lock(endpoint);
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
        let mut endpoints = self.present.lock(endpoint);
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
        self.present.lock(endpoint).get(endpoint).map(|presence| presence.app_version.clone())
    }

    /// Another replica has the endpoint no more.
    pub(crate) fn unshared(&self, endpoint: &EndpointId, with: &ReplicaId) {
        if let Some(presence) = self.present.lock(endpoint).get_mut(endpoint) {
            presence.others.retain(|other| other != with);
        }
    }

    /// Every endpoint that is here, with its version.
    pub(crate) fn all(&self) -> Vec<(EndpointId, AppVersionName)> {
        let maps = self.present.each();
        maps.flat_map(|map| {
            map.iter()
                .map(|(endpoint, presence)| (endpoint.clone(), presence.app_version.clone()))
                .collect::<Vec<_>>()
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;
    use crate::connections::tests::{connections, identity, newcomer, version};
    use crate::outbox::Qos;

    #[test]
    fn who_else_listens_depends_on_subscriptions_and_replicas() {
        let all = connections(Limits::default());
        let (a, b) = (all.open(newcomer(None).0).unwrap(), all.open(newcomer(None).0).unwrap());
        let one = identity("e1", "t1");
        assert_eq!(all.endpoints.listeners(&one.endpoint, None).1, Elsewhere::Everybody);
        all.attach(&a, &version(), &one).unwrap();
        all.attach(&b, &version(), &one).unwrap();
        assert!(all.endpoints.listeners(&one.endpoint, Some(a.id)).0.is_empty());
        b.subscribe(kp1::TopicFilter::parse("kp1/demo-v1/+/t1/#").unwrap(), Qos::AtLeastOnce).unwrap();
        let (here, elsewhere) = all.endpoints.listeners(&one.endpoint, Some(a.id));
        assert_eq!((here[0].id, elsewhere), (b.id, Elsewhere::Everybody));
        all.endpoints.present.lock(&one.endpoint).get_mut(&one.endpoint).unwrap().since -= FRESH;
        assert_eq!(all.endpoints.listeners(&one.endpoint, Some(b.id)), (vec![], Elsewhere::Nobody));
        let other = ReplicaId::parse("kpc-2").unwrap();
        assert_eq!(all.endpoints.shared(&one.endpoint, &other), Some(version()));
        assert_eq!(all.endpoints.shared(&one.endpoint, &other), None);
        assert_eq!(
            all.endpoints.listeners(&one.endpoint, Some(b.id)).1,
            Elsewhere::Replicas(vec![other.clone()])
        );
        all.endpoints.unshared(&one.endpoint, &other);
        assert_eq!(all.endpoints.listeners(&one.endpoint, Some(b.id)).1, Elsewhere::Nobody);
    }

    #[test]
    fn the_latest_replicas_that_share_an_endpoint_are_remembered() {
        let all = connections(Limits::default());
        let connection = all.open(newcomer(None).0).unwrap();
        let one = identity("e1", "t1");
        all.attach(&connection, &version(), &one).unwrap();
        all.endpoints.present.lock(&one.endpoint).get_mut(&one.endpoint).unwrap().since -= FRESH;
        let replica = |number: usize| ReplicaId::parse(&format!("kpc-{number}")).unwrap();
        for number in 0..=OTHERS_MAX {
            assert_eq!(all.endpoints.shared(&one.endpoint, &replica(number)), Some(version()));
        }
        let latest = (1..=OTHERS_MAX).map(replica).collect();
        assert_eq!(all.endpoints.listeners(&one.endpoint, None).1, Elsewhere::Replicas(latest));
    }
}
