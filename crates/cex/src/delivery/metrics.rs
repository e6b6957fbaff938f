//! What pushing counts.

use opentelemetry::metrics::Counter;
use opentelemetry::{KeyValue, global};

use crate::ledger::Pushed;

pub(crate) struct Metrics {
    pushes: Counter<u64>,
    commands: Counter<u64>,
    given_back: Counter<u64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let meter = global::meter("cex");
        let counter = |name: &'static str, description: &'static str| {
            meter.u64_counter(name).with_description(description).build()
        };
        Self {
            pushes: counter(
                "bandar_cex_pushes",
                "Pushes to devices, by outcome: delivered, offline, unknown",
            ),
            commands: counter(
                "bandar_cex_pushed_commands",
                "Commands in pushes to devices, by outcome: delivered, offline, unknown",
            ),
            given_back: counter(
                "bandar_cex_pushes_given_back",
                "Pushes that found no room in cex.pushes_in_flight_max and were given back to the ledger",
            ),
        }
    }

    pub(crate) fn pushed(&self, pushed: Pushed, commands: usize) {
        let outcome = match pushed {
            Pushed::Delivered => "delivered",
            Pushed::Offline => "offline",
            Pushed::Unknown => "unknown",
        };
        let labels = [KeyValue::new("outcome", outcome)];
        self.pushes.add(1, &labels);
        self.commands.add(u64::try_from(commands).unwrap_or(u64::MAX), &labels);
    }

    pub(crate) fn given_back(&self) {
        self.given_back.add(1, &[]);
    }
}
