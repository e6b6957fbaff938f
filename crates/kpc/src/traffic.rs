//! How much each endpoint has sent and received (9/ELCE traffic reports).
//!
//! Counted where a message is handled, in counters that hang on the endpoint's identity: no lock is taken and nothing is
//! looked up for it. Reported every so often; what was counted since the last report is lost when the process is killed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::connection::State;
use ids::{ApplicationName, EndpointId, TenantId};
use ism::Record as _;
use ism::elce::{self, TenantTrafficStats, TrafficReportEvent, TrafficStat};
use runtime::now_ms;
use tokio_util::sync::CancellationToken;

use crate::gateway::Gateway;
use crate::shards::Shards;

/// Bytes of one report: half of what NATS carries.
const REPORT_BYTES_MAX: usize = 512 * 1024;
/// How often endpoints that nobody knows any more are forgotten when there are no reports, in s.
const FORGET_EVERY_S: u64 = 60;
/// What an entry takes beside its name: the four numbers and the lengths, at most.
const ENTRY_BYTES: usize = 4 * 10 + 3;

/// The traffic of one endpoint since the last report. Payloads are in bytes.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    received_payload: AtomicI64,
    received_messages: AtomicI64,
    sent_payload: AtomicI64,
    sent_messages: AtomicI64,
}

impl Counters {
    /// The endpoint has sent a message.
    pub(crate) fn received(&self, bytes: usize) {
        self.received_payload.fetch_add(i64::try_from(bytes).unwrap_or(i64::MAX), Ordering::Relaxed);
        self.received_messages.fetch_add(1, Ordering::Relaxed);
    }

    /// A message was sent to the endpoint.
    pub(crate) fn sent(&self, bytes: usize) {
        self.sent_payload.fetch_add(i64::try_from(bytes).unwrap_or(i64::MAX), Ordering::Relaxed);
        self.sent_messages.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes what has been counted; none when that is nothing.
    fn take(&self) -> Option<TrafficStat> {
        let take = |counter: &AtomicI64| counter.swap(0, Ordering::Relaxed);
        let stat = TrafficStat {
            total_received_payload: take(&self.received_payload),
            total_sent_payload: take(&self.sent_payload),
            total_received_message_count: take(&self.received_messages),
            total_sent_message_count: take(&self.sent_messages),
        };
        (stat != TrafficStat::default()).then_some(stat)
    }
}

/// The counters of all endpoints that somebody here knows, or that have something to report. So they are as many as the
/// tokens that are remembered or in use.
#[derive(Debug)]
pub(crate) struct Traffic {
    endpoints: Shards<EndpointId, Counted>,
}

#[derive(Debug)]
struct Counted {
    tenant: TenantId,
    application: ApplicationName,
    counters: Arc<Counters>,
}

impl Traffic {
    pub(crate) fn new() -> Self {
        Self { endpoints: Shards::new() }
    }

    /// The counters of an endpoint; all its tokens share them.
    pub(crate) fn of(
        &self,
        tenant: &TenantId,
        application: &ApplicationName,
        endpoint: &EndpointId,
    ) -> Arc<Counters> {
        let mut endpoints = self.endpoints.lock(endpoint);
        let counted = endpoints.entry(endpoint.clone()).or_insert_with(|| Counted {
            tenant: tenant.clone(),
            application: application.clone(),
            counters: Arc::default(),
        });
        counted.counters.clone()
    }

    /// Takes all that has been counted, in parts of bounded size, and forgets the endpoints that nobody knows any more.
    fn take(&self, mut report: impl FnMut(TenantTrafficStats)) {
        let mut part = Part::default();
        for mut endpoints in self.endpoints.each() {
            endpoints.retain(|endpoint, counted| {
                // Nobody can get hold of the counters meanwhile, for the map is locked.
                let is_known = Arc::strong_count(&counted.counters) > 1;
                if let Some(stat) = counted.counters.take()
                    && let Some(full) = part.add(counted, endpoint, stat)
                {
                    report(full);
                }
                is_known
            });
            if endpoints.len() * 4 < endpoints.capacity() {
                let room = endpoints.len() * 2;
                endpoints.shrink_to(room);
            }
        }
        if !part.stats.is_empty() {
            report(part.stats);
        }
    }
}

/// A report that is being written.
#[derive(Default)]
struct Part {
    stats: TenantTrafficStats,
    bytes: usize,
}

impl Part {
    /// Adds an endpoint; returns what was there before if there is no more room in it.
    fn add(&mut self, of: &Counted, endpoint: &EndpointId, stat: TrafficStat) -> Option<TenantTrafficStats> {
        // As if each endpoint were the first of its tenant and application.
        let bytes =
            of.tenant.as_str().len() + of.application.as_str().len() + endpoint.as_str().len() + ENTRY_BYTES;
        let mut full = None;
        if self.bytes + bytes > REPORT_BYTES_MAX {
            full = Some(std::mem::take(self).stats);
        }
        self.bytes += bytes;
        let applications: &mut BTreeMap<_, _> = self.stats.entry(of.tenant.to_string()).or_default();
        let endpoints = applications.entry(of.application.to_string()).or_default();
        endpoints.insert(endpoint.to_string(), stat);
        full
    }
}

impl Gateway {
    /// Reports the traffic every so often until `stopped` is cancelled, and then once more.
    pub(crate) async fn report_traffic(&self, stopped: CancellationToken) {
        // Without reports too, what nobody knows any more must be forgotten.
        let is_told = self.config.traffic.interval_s > 0;
        let interval = if is_told { self.config.traffic.interval_s } else { FORGET_EVERY_S };
        let mut from = now_ns();
        let mut stop = false;
        while !stop {
            stop = tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(interval)) => false,
                () = stopped.cancelled() => true,
            };
            // While NATS is away the counters go on counting, for a report over a longer time.
            if self.context.nats().connection_state() != State::Connected {
                continue;
            }
            let to = now_ns();
            self.relay.identities.traffic().take(|tenant_traffic_stats| {
                if !is_told {
                    return;
                }
                let event = TrafficReportEvent {
                    tenant_traffic_stats,
                    time_from: from,
                    time_to: to,
                    correlation_id: self.relay.correlation_ids.next().to_string(),
                    originator_replica_id: self.replica.to_string(),
                    timestamp: now_ms(),
                    timeout: 0,
                };
                self.notices.publish(elce::TRAFFIC_REPORT.of(&self.instance), event.encode());
            });
            from = to;
        }
    }
}

fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(traffic: &Traffic, endpoint: &str) -> Arc<Counters> {
        let tenant = TenantId::parse("acme").unwrap();
        let application = ApplicationName::parse("demo").unwrap();
        traffic.of(&tenant, &application, &EndpointId::parse(endpoint).unwrap())
    }

    fn taken(traffic: &Traffic) -> Vec<TenantTrafficStats> {
        let mut all = Vec::new();
        traffic.take(|part| all.push(part));
        all
    }

    #[test]
    fn what_was_counted_is_reported_once_by_tenant_application_and_endpoint() {
        let traffic = Traffic::new();
        let (one, same) = (counters(&traffic, "e1"), counters(&traffic, "e1"));
        one.received(10);
        same.received(5);
        same.sent(3);
        let _idle = counters(&traffic, "e2");
        let all = taken(&traffic);
        let stat = TrafficStat {
            total_received_payload: 15,
            total_sent_payload: 3,
            total_received_message_count: 2,
            total_sent_message_count: 1,
        };
        assert_eq!(all.len(), 1);
        assert_eq!(all[0]["acme"]["demo"], BTreeMap::from([("e1".to_owned(), stat)]));
        assert_eq!(taken(&traffic), []);
    }

    #[test]
    fn endpoints_that_nobody_knows_are_forgotten_after_their_last_report() {
        let traffic = Traffic::new();
        counters(&traffic, "e1").received(1);
        let held = counters(&traffic, "e2");
        assert_eq!(taken(&traffic).len(), 1);
        assert_eq!(traffic.endpoints.each().map(|map| map.len()).sum::<usize>(), 1);
        drop(held);
        assert_eq!(taken(&traffic), []);
        assert_eq!(traffic.endpoints.each().map(|map| map.len()).sum::<usize>(), 0);
    }

    #[test]
    fn many_endpoints_make_several_reports_that_nats_carries() {
        let traffic = Traffic::new();
        let number = 10_000;
        for number in 0..number {
            counters(&traffic, &format!("{number:0>128}")).received(usize::MAX);
        }
        let all = taken(&traffic);
        let mut found = 0;
        for part in all {
            found += part["acme"]["demo"].len();
            let event = TrafficReportEvent { tenant_traffic_stats: part, ..TrafficReportEvent::default() };
            assert!(event.encode().len() <= REPORT_BYTES_MAX + 1_024);
        }
        assert_eq!(found, number);
    }
}
