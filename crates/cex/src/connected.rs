//! Endpoints that come and go (9/ELCE): what waits for one that has connected is pushed to it, and the feed tells of both.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use ids::{AppVersionName, ApplicationName, EndpointId, TenantId};
use ism::elce::{CONNECTED, DISCONNECTED};
use ism::{ConnectedEvent, DisconnectedEvent, Record as _};
use runtime::{Applications, Context, Subjects, Subscription};
use serde::de::IgnoredAny;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::delivery::Dispatcher;
use crate::ledger::{ConnectivityChange, Ledger};

/// How long events are gathered, so that a gateway's restart costs few statements.
const GATHER: Duration = Duration::from_millis(5);
/// Endpoints that are gathered.
const GATHERED_MAX: usize = 1_000;
/// Endpoints that have connected while the ledger could not be told; the commands of others wait for their next attempt.
const PENDING_MAX: usize = 100_000;
/// The pause before the ledger is told again; doubles.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Gathered changes that may wait to be written for the feed; more are left out of it.
const WAITING_MAX: usize = 64;

/// Applications as this service needs them: it has no settings for them.
pub(crate) type KnownApplications = Applications<IgnoredAny>;

/// What is heard here.
pub(crate) fn subjects(own: Subjects) -> Subjects {
    own.hears(CONNECTED).hears(DISCONNECTED)
}

/// An endpoint that has come or gone.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Change {
    endpoint: EndpointId,
    app_version: AppVersionName,
    is_connected: bool,
    at: DateTime<Utc>,
}

/// Hears of endpoints for as long as the service runs.
pub(crate) async fn start(
    context: &Context,
    ledger: Ledger,
    dispatcher: Dispatcher,
    applications: KnownApplications,
) -> anyhow::Result<()> {
    let queue = Some(context.instance().as_str());
    let connected = context.subscribe(CONNECTED.of_any(), queue).await?;
    let disconnected = context.subscribe(DISCONNECTED.of_any(), queue).await?;
    let (feed, changes) = mpsc::channel(WAITING_MAX);
    let watch = Watch { ledger: ledger.clone(), dispatcher, feed, pending: BTreeMap::new(), pause: PAUSE };
    context.spawn("hear of connected endpoints", watch.run(connected, disconnected));
    context.spawn("write connectivity for the feed", write(ledger, applications, changes));
    Ok(())
}

struct Watch {
    ledger: Ledger,
    dispatcher: Dispatcher,
    feed: mpsc::Sender<Vec<Change>>,
    /// Those that the ledger is still to be told of, and since when they are connected.
    pending: BTreeMap<EndpointId, DateTime<Utc>>,
    /// How long it is left alone when it has failed.
    pause: Duration,
}

impl Watch {
    async fn run(
        mut self,
        mut connected: Subscription,
        mut disconnected: Subscription,
    ) -> anyhow::Result<()> {
        loop {
            let mut changes = Vec::new();
            let mut until = (!self.pending.is_empty()).then(|| Instant::now() + self.pause);
            while changes.len() < GATHERED_MAX {
                let gathered = async {
                    match until {
                        Some(until) => tokio::time::sleep_until(until).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    event = connected.next() => match event {
                        Some(event) => changes.extend(read_connected(&event.payload)),
                        None => return Ok(()),
                    },
                    event = disconnected.next() => match event {
                        Some(event) => changes.extend(read_disconnected(&event.payload)),
                        None => return Ok(()),
                    },
                    () = gathered => break,
                }
                until = until.or_else(|| Some(Instant::now() + GATHER));
            }
            self.take(changes).await;
        }
    }

    async fn take(&mut self, mut changes: Vec<Change>) {
        // Two subscriptions brought them: each in its own order.
        changes.sort_by_key(|change| change.at);
        // Of several connections of one endpoint the last counts: it may have ended the others.
        for change in changes.iter().filter(|change| change.is_connected) {
            if self.pending.len() < PENDING_MAX || self.pending.contains_key(&change.endpoint) {
                self.pending.insert(change.endpoint.clone(), change.at);
            }
        }
        self.wake().await;
        if !changes.is_empty() && self.feed.try_send(changes).is_err() {
            tracing::warn!(
                "connectivity comes faster than it can be written; some of it is missing in the feed"
            );
        }
    }

    /// Tells the ledger who has connected; what it does not take is left for the next time.
    async fn wake(&mut self) {
        while !self.pending.is_empty() {
            let mut part = std::mem::take(&mut self.pending);
            if let Some((first, _)) = part.iter().nth(GATHERED_MAX) {
                let first = first.clone();
                self.pending = part.split_off(&first);
            }
            if let Err(error) = self.ledger.wake(&part).await {
                self.pending.append(&mut part);
                let count = self.pending.len();
                tracing::warn!(%error, count, "what waits for connected endpoints could not be woken; trying again");
                self.pause = (self.pause * 2).min(PAUSE_MAX);
                return;
            }
            self.pause = PAUSE;
            self.dispatcher.look();
        }
    }
}

/// Writes what has changed, for those who follow the feed. It is news: what cannot be written is left out.
async fn write(
    ledger: Ledger,
    applications: KnownApplications,
    mut batches: mpsc::Receiver<Vec<Change>>,
) -> anyhow::Result<()> {
    while let Some(changes) = batches.recv().await {
        let mut owners = BTreeMap::new();
        for change in &changes {
            if !owners.contains_key(&change.app_version) {
                let owner = owner(&applications, &change.app_version).await;
                owners.insert(change.app_version.clone(), owner);
            }
        }
        let told = changes.into_iter().filter_map(|change| {
            let (tenant, application) = owners.get(&change.app_version)?.clone()?;
            let Change { endpoint: endpoint_id, is_connected, at, .. } = change;
            Some(ConnectivityChange { tenant, application, endpoint_id, is_connected, at })
        });
        let told: Vec<_> = told.collect();
        if !told.is_empty()
            && let Err(error) = ledger.connectivity(told).await
        {
            tracing::warn!(%error, "connectivity could not be written and is missing in the feed");
        }
    }
    Ok(())
}

async fn owner(
    applications: &KnownApplications,
    app_version: &AppVersionName,
) -> Option<(TenantId, ApplicationName)> {
    let version = applications.version(app_version).await;
    let version = version
        .inspect_err(|error| tracing::debug!(%error, %app_version, "connectivity of an unknown application"));
    version.ok().map(|version| (version.tenant_id.clone(), version.app_name.clone()))
}

fn read_connected(payload: &Bytes) -> Vec<Change> {
    match ConnectedEvent::decode(payload) {
        Ok(event) => changes(event.endpoints, event.timestamp, true),
        Err(error) => unreadable(&error),
    }
}

fn read_disconnected(payload: &Bytes) -> Vec<Change> {
    match DisconnectedEvent::decode(payload) {
        Ok(event) => changes(event.endpoints, event.timestamp, false),
        Err(error) => unreadable(&error),
    }
}

fn unreadable(error: &ism::DecodeError) -> Vec<Change> {
    tracing::warn!(%error, "an event about endpoints that come or go cannot be read");
    Vec::new()
}

fn changes(endpoints: BTreeMap<String, String>, at_ms: i64, is_connected: bool) -> Vec<Change> {
    let at = DateTime::from_timestamp_millis(at_ms).unwrap_or_else(Utc::now);
    let change = |(endpoint, version): (String, String)| {
        let (endpoint, app_version) =
            (EndpointId::parse(&endpoint).ok()?, AppVersionName::parse(&version).ok()?);
        Some(Change { endpoint, app_version, is_connected, at })
    };
    endpoints.into_iter().filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_as_far_as_they_can_be() {
        let endpoints = [("e1", "demo-v1"), ("e 2", "demo-v1"), ("e3", "Demo")];
        let event = ConnectedEvent {
            correlation_id: "c".to_owned(),
            timestamp: 1_790_000_000_123,
            timeout: 0,
            endpoints: endpoints.map(|(id, version)| (id.to_owned(), version.to_owned())).into(),
            originator_replica_id: "kpc-1".to_owned(),
        };
        let read = read_connected(&event.encode());
        let names: Vec<&str> = read.iter().map(|change| change.endpoint.as_str()).collect();
        assert_eq!(names, ["e1"]);
        assert_eq!(read[0].at.timestamp_millis(), 1_790_000_000_123);
        assert!(read[0].is_connected);
        assert_eq!(read_disconnected(&Bytes::from_static(b"nonsense")), []);
    }
}
