//! What the service counts.

use opentelemetry::metrics::{Counter, Gauge};
use opentelemetry::{KeyValue, global};

use crate::store::{Counts, Waiting};

pub(crate) struct Metrics {
    changes: Counter<u64>,
    unreadable: Counter<u64>,
    dead_gateways: Counter<u64>,
    metadata: Counter<u64>,
    points: Counter<u64>,
    waiting: Gauge<u64>,
}

/// What became of something that was to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// It is stored.
    Done,
    /// Nobody wants it: the application names no place for it, or there is no such endpoint.
    Unwanted,
    /// It was refused for good.
    Refused,
    /// It is tried again.
    Postponed,
}

impl Told {
    fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Unwanted => "unwanted",
            Self::Refused => "refused",
            Self::Postponed => "postponed",
        }
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let meter = global::meter("epl");
        let counter = |name: &'static str, description: &'static str| {
            meter.u64_counter(name).with_description(description).build()
        };
        Self {
            changes: counter(
                "bandar_epl_changes",
                "Changes of connectivity that gateways told, by outcome: connected, disconnected, noted, outdated",
            ),
            unreadable: counter(
                "bandar_epl_unreadable_events",
                "Events that cannot be read and were dropped",
            ),
            dead_gateways: counter(
                "bandar_epl_dead_gateways",
                "Gateway replicas that fell silent while they held endpoints",
            ),
            metadata: counter("bandar_epl_metadata", "States written to metadata, by outcome"),
            points: counter("bandar_epl_points", "Transitions sent as points of time series, by outcome"),
            waiting: meter
                .u64_gauge("bandar_epl_waiting")
                .with_description(
                    "What waits to be told, all replicas together: metadata (endpoints), points",
                )
                .build(),
        }
    }

    pub(crate) fn changes(&self, counts: &Counts) {
        let outcomes = [
            ("connected", counts.connected),
            ("disconnected", counts.disconnected),
            ("noted", counts.noted),
            ("outdated", counts.outdated),
        ];
        for (outcome, count) in outcomes.into_iter().filter(|(_, count)| *count > 0) {
            self.changes.add(count, &[KeyValue::new("outcome", outcome)]);
        }
    }

    pub(crate) fn unreadable(&self) {
        self.unreadable.add(1, &[]);
    }

    pub(crate) fn dead_gateway(&self) {
        self.dead_gateways.add(1, &[]);
    }

    pub(crate) fn metadata(&self, told: Told, count: usize) {
        add(&self.metadata, told, count);
    }

    pub(crate) fn points(&self, told: Told, count: usize) {
        add(&self.points, told, count);
    }

    /// Points that nobody took in time.
    pub(crate) fn points_dropped(&self, count: u64) {
        self.points.add(count, &[KeyValue::new("outcome", "dropped")]);
    }

    pub(crate) fn waiting(&self, waiting: Waiting) {
        self.waiting.record(waiting.metadata, &[KeyValue::new("of", "metadata")]);
        self.waiting.record(waiting.points, &[KeyValue::new("of", "points")]);
    }
}

fn add(counter: &Counter<u64>, told: Told, count: usize) {
    if count > 0 {
        counter.add(u64::try_from(count).unwrap_or(u64::MAX), &[KeyValue::new("outcome", told.as_str())]);
    }
}
