//! What is counted of batches.

use opentelemetry::metrics::Counter;
use opentelemetry::{KeyValue, global};

use super::store::BatchState;

/// What is counted of batches.
#[derive(Debug)]
pub(super) struct Metrics {
    batches: Counter<u64>,
    targets: Counter<u64>,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let meter = global::meter("cex");
        let counter = |name: &'static str, description: &'static str| {
            meter.u64_counter(name).with_description(description).build()
        };
        Self {
            batches: counter(
                "bandar_cex_batches",
                "Batches, by event: created, and the state that they left RUNNING for",
            ),
            targets: counter(
                "bandar_cex_batch_targets",
                "Endpoints of batches, by outcome: invoked, refused",
            ),
        }
    }

    pub(super) fn created(&self) {
        self.batches.add(1, &[KeyValue::new("event", "created")]);
    }

    pub(super) fn ended(&self, state: BatchState) {
        self.batches.add(1, &[KeyValue::new("event", state.as_str().to_lowercase())]);
    }

    pub(super) fn worked(&self, invoked: usize, refused: usize) {
        for (count, outcome) in [(invoked, "invoked"), (refused, "refused")] {
            self.targets.add(count as u64, &[KeyValue::new("outcome", outcome)]);
        }
    }
}
