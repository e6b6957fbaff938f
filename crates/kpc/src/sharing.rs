//! Which endpoints come and go (9/ELCE), and which of them other replicas have too.
//!
//! An endpoint is online from its first connection here to its last. What happens within a few milliseconds is told in
//! one event, so a connection that speaks for many endpoints makes one event. No two events of a replica have the same
//! timestamp, so that listeners can put them in order. Replicas hear each other's events: one
//! that has the endpoint too notes the other and tells it so directly. With that each knows for the few endpoints that
//! it shares where else a response may be awaited.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ids::{AppVersionName, EndpointId, ReplicaId};
use ism::Record as _;
use ism::elce::{self, ConnectedEvent, DisconnectedEvent};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use runtime::now_ms;
use tokio::sync::Notify;

use crate::gateway::Gateway;

/// How long events are gathered.
const GATHER: Duration = Duration::from_millis(20);
/// Endpoints in one event: with the longest names still far below what NATS carries.
const EVENT_ENDPOINTS_MAX: usize = 1_000;

/// The endpoints that came and went since the last events.
#[derive(Debug, Default)]
pub(crate) struct Connectivity {
    pending: Mutex<HashMap<EndpointId, Change>>,
    /// Held while several changes are noted that belong together.
    together: RwLock<()>,
    changed: Notify,
    /// The timestamp of the last event, in ms since 1970.
    last: AtomicI64,
}

/// What happened to an endpoint: came, went, or both in this order. Only the first and the last matter.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Change {
    app_version: AppVersionName,
    first_up: bool,
    last_up: bool,
    /// When it first did, in ms since 1970.
    at: i64,
}

/// What is told of one gathering: first whoever changed, then whoever changed back.
#[derive(Debug, Default, PartialEq, Eq)]
struct Gathered {
    rounds: [Round; 2],
    /// When the last of them came or went, in ms since 1970; an event about one connection has its moment.
    at: i64,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Round {
    up: BTreeMap<String, String>,
    down: BTreeMap<String, String>,
}

impl Connectivity {
    /// The endpoint has come online here.
    pub(crate) fn up(&self, endpoint: &EndpointId, app_version: &AppVersionName) {
        note(&mut self.pending.lock(), endpoint.clone(), app_version.clone(), true);
        self.changed.notify_one();
    }

    /// The endpoint is offline here.
    pub(crate) fn down(&self, endpoint: &EndpointId, app_version: &AppVersionName) {
        note(&mut self.pending.lock(), endpoint.clone(), app_version.clone(), false);
        self.changed.notify_one();
    }

    /// What is noted until the result is dropped is told together.
    pub(crate) fn together(&self) -> RwLockReadGuard<'_, ()> {
        self.together.read()
    }

    /// A timestamp for an event that tells how it is now.
    fn timestamp(&self) -> i64 {
        self.timestamp_of(now_ms())
    }

    /// A timestamp for an event about what happened at that moment, but later than that of any event before.
    fn timestamp_of(&self, at: i64) -> i64 {
        let next = |last: i64| Some(at.max(last + 1));
        let last = self.last.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        last.map_or(at, |last| at.max(last + 1))
    }

    fn take(&self) -> Gathered {
        let mut gathered = Gathered::default();
        let together = self.together.write();
        let pending = std::mem::take(&mut *self.pending.lock());
        drop(together);
        for (endpoint, change) in pending {
            let (endpoint, version) = (endpoint.to_string(), change.app_version.to_string());
            gathered.at = gathered.at.max(change.at);
            let [first, second] = &mut gathered.rounds;
            if change.first_up != change.last_up {
                second.add(endpoint.clone(), version.clone(), change.last_up);
            }
            first.add(endpoint, version, change.first_up);
        }
        gathered
    }
}

fn note(
    pending: &mut HashMap<EndpointId, Change>,
    endpoint: EndpointId,
    app_version: AppVersionName,
    up: bool,
) {
    pending
        .entry(endpoint)
        .and_modify(|change| {
            change.last_up = up;
            change.app_version = app_version.clone();
        })
        .or_insert_with(|| Change { app_version, first_up: up, last_up: up, at: now_ms() });
}

impl Round {
    fn add(&mut self, endpoint: String, version: String, up: bool) {
        if up { &mut self.up } else { &mut self.down }.insert(endpoint, version);
    }
}

impl Gateway {
    /// Publishes what comes and goes until `stopped` is cancelled, and then what is left.
    pub(crate) async fn publish_connectivity(&self, stopped: tokio_util::sync::CancellationToken) {
        loop {
            let stop = tokio::select! {
                () = self.connectivity.changed.notified() => {
                    tokio::time::sleep(GATHER).await;
                    false
                }
                () = stopped.cancelled() => true,
            };
            let Gathered { rounds, at } = self.connectivity.take();
            for round in rounds {
                for endpoints in chunks(round.down) {
                    let subject = elce::DISCONNECTED.of(&self.instance);
                    self.notices.publish(subject, self.disconnected_event_at(at, endpoints).encode());
                }
                for endpoints in chunks(round.up) {
                    let subject = elce::CONNECTED.of(&self.instance);
                    let timestamp = self.connectivity.timestamp_of(at);
                    self.notices.publish(subject, self.connected_event_at(timestamp, endpoints).encode());
                }
            }
            if stop {
                return;
            }
        }
    }

    fn connected_event(&self, endpoints: BTreeMap<String, String>) -> ConnectedEvent {
        self.connected_event_at(self.connectivity.timestamp(), endpoints)
    }

    fn connected_event_at(&self, timestamp: i64, endpoints: BTreeMap<String, String>) -> ConnectedEvent {
        ConnectedEvent {
            correlation_id: self.relay.correlation_ids.next().to_string(),
            timestamp,
            timeout: 0,
            endpoints,
            originator_replica_id: self.replica.to_string(),
        }
    }

    fn disconnected_event_at(&self, at: i64, endpoints: BTreeMap<String, String>) -> DisconnectedEvent {
        DisconnectedEvent {
            correlation_id: self.relay.correlation_ids.next().to_string(),
            timestamp: self.connectivity.timestamp_of(at),
            timeout: 0,
            endpoints,
            originator_replica_id: self.replica.to_string(),
        }
    }

    /// Tells the other replicas anew which endpoints are here: they or we may have missed events.
    pub(crate) fn announce_endpoints(&self) {
        // From before the look: of an endpoint that leaves meanwhile, its "disconnected" must be the later event.
        let timestamp = self.connectivity.timestamp();
        let endpoints = self.connections.endpoints.all();
        let endpoints =
            endpoints.into_iter().map(|(id, version)| (id.to_string(), version.to_string())).collect();
        for endpoints in chunks(endpoints) {
            let subject = self.announcement_subject();
            self.notices.publish(subject, self.connected_event_at(timestamp, endpoints).encode());
        }
    }

    /// Where replicas announce their endpoints to each other, apart from the events that the world hears.
    pub(crate) fn announcement_subject(&self) -> String {
        elce::CONNECTED_HERE_TOO.service(&self.instance)
    }

    /// Another replica's endpoints came online: notes those that are here too, and tells it so. An announcement is
    /// answered also when it is no news here, because it may be news there.
    pub(crate) fn hear_connected(&self, payload: &Bytes, is_announcement: bool) {
        let Some((event, replica)) = self.read_connected(payload) else { return };
        let mut here = BTreeMap::new();
        for endpoint in event.endpoints.keys() {
            let Ok(endpoint) = EndpointId::parse(endpoint) else { continue };
            let news = self.connections.endpoints.shared(&endpoint, &replica);
            let version = if is_announcement { self.connections.endpoints.version(&endpoint) } else { news };
            here.extend(version.map(|version| (endpoint.to_string(), version.to_string())));
        }
        if !here.is_empty() {
            let subject = elce::CONNECTED_HERE_TOO.replica(&replica);
            self.notices.publish(subject, self.connected_event(here).encode());
        }
    }

    /// Another replica tells that it has endpoints that are here too.
    pub(crate) fn learn_shared(&self, payload: &Bytes) {
        let Some((event, replica)) = self.read_connected(payload) else { return };
        for endpoint in event.endpoints.keys().filter_map(|endpoint| EndpointId::parse(endpoint).ok()) {
            self.connections.endpoints.shared(&endpoint, &replica);
        }
    }

    fn read_connected(&self, payload: &Bytes) -> Option<(ConnectedEvent, ReplicaId)> {
        let event = ConnectedEvent::decode(payload)
            .inspect_err(|error| tracing::warn!(%error, "a connectivity event cannot be read"))
            .ok()?;
        let replica = ReplicaId::parse(&event.originator_replica_id).ok()?;
        (replica != self.replica).then_some((event, replica))
    }

    /// Another replica's endpoints went offline there.
    pub(crate) fn hear_disconnected(&self, payload: &Bytes) {
        let event = match DisconnectedEvent::decode(payload) {
            Ok(event) => event,
            Err(error) => return tracing::warn!(%error, "a connectivity event cannot be read"),
        };
        let Ok(replica) = ReplicaId::parse(&event.originator_replica_id) else { return };
        if replica == self.replica {
            return;
        }
        for endpoint in event.endpoints.keys().filter_map(|endpoint| EndpointId::parse(endpoint).ok()) {
            self.connections.endpoints.unshared(&endpoint, &replica);
        }
    }

    /// After a lost connection to NATS, events may have been missed: forgets what they would have changed and tells the
    /// other replicas what is here.
    pub(crate) async fn recover(
        self: Arc<Self>,
        stopping: tokio_util::sync::CancellationToken,
    ) -> anyhow::Result<()> {
        let statistics = self.context.nats().statistics();
        let connects = || statistics.connects.load(std::sync::atomic::Ordering::Relaxed);
        let mut seen = connects();
        let mut announcing = stopping.child_token();
        let mut look = tokio::time::interval(Duration::from_millis(500));
        loop {
            tokio::select! {
                _ = look.tick() => {}
                () = stopping.cancelled() => return Ok(()),
            }
            let before = std::mem::replace(&mut seen, connects());
            if before != 0 && before != seen {
                tracing::info!("connected to NATS again: telling the other replicas what is here");
                self.relay.identities.forget();
                self.relay.registry.read_again();
                self.relay.applications.forget();
                self.clients.forget_settings();
                self.authorities.read_again();
                self.announce_endpoints();
                announcing.cancel();
                announcing = stopping.child_token();
                self.spawn(self.clone().announce_clients(announcing.clone()));
                self.spawn(self.clone().recheck(announcing.clone()));
            }
        }
    }
}

/// Splits what does not fit into one event.
fn chunks(endpoints: BTreeMap<String, String>) -> impl Iterator<Item = BTreeMap<String, String>> {
    let mut rest = endpoints.into_iter().peekable();
    std::iter::from_fn(move || {
        rest.peek()?;
        Some(rest.by_ref().take(EVENT_ENDPOINTS_MAX).collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(number: usize) -> (EndpointId, AppVersionName) {
        (EndpointId::parse(&format!("e{number}")).unwrap(), AppVersionName::parse("v").unwrap())
    }

    fn ids(map: &BTreeMap<String, String>) -> Vec<&str> {
        map.keys().map(String::as_str).collect()
    }

    #[test]
    fn what_gathers_is_told_together_and_in_order() {
        let connectivity = Connectivity::default();
        let [(e1, v), (e2, _), (e3, _)] = [1, 2, 3].map(endpoint);
        connectivity.up(&e1, &v);
        connectivity.up(&e2, &v);
        connectivity.down(&e2, &v);
        connectivity.down(&e3, &v);
        let Gathered { rounds: [first, second], at } = connectivity.take();
        assert!((1..=now_ms()).contains(&at));
        assert_eq!((ids(&first.up), ids(&first.down)), (vec!["e1", "e2"], vec!["e3"]));
        assert_eq!((ids(&second.up), ids(&second.down)), (vec![], vec!["e2"]));
        assert_eq!(connectivity.take(), Gathered::default());
    }

    #[test]
    fn no_two_events_have_the_same_timestamp() {
        let connectivity = Connectivity::default();
        let stamps: Vec<_> = (0..1_000).map(|_| connectivity.timestamp()).collect();
        assert!(stamps.is_sorted_by(|one, next| one < next));
        assert!(stamps[0] <= now_ms());
    }

    #[test]
    fn many_endpoints_make_several_events() {
        let all: BTreeMap<_, _> = (0..2_500).map(|number| (number.to_string(), "v".to_owned())).collect();
        let sizes: Vec<_> = chunks(all).map(|chunk| chunk.len()).collect();
        assert_eq!(sizes, [1_000, 1_000, 500]);
        assert_eq!(chunks(BTreeMap::new()).count(), 0);
    }
}
