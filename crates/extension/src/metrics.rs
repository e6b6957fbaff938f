//! What an extension counts.

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, UpDownCounter};

pub(crate) struct Metrics {
    answered: Counter<u64>,
    expired: Counter<u64>,
    pub(crate) in_flight: UpDownCounter<i64>,
    seconds: Histogram<f64>,
    extension: KeyValue,
}

impl Metrics {
    pub(crate) fn new(extension: &'static str) -> Self {
        let meter = opentelemetry::global::meter("extension");
        Self {
            answered: meter
                .u64_counter("bandar_extension_messages")
                .with_description("Messages of devices that were answered, by status code")
                .build(),
            expired: meter
                .u64_counter("bandar_extension_expired_messages")
                .with_description("Messages that came after their deadline and were dropped")
                .build(),
            in_flight: meter
                .i64_up_down_counter("bandar_extension_in_flight_messages")
                .with_description("Messages that are being handled")
                .build(),
            seconds: meter
                .f64_histogram("bandar_extension_handling_seconds")
                .with_description("Time from the arrival of a message to its answer")
                .with_boundaries(vec![
                    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
                ])
                .build(),
            extension: KeyValue::new("extension", extension),
        }
    }

    pub(crate) fn answered(&self, status_code: u16, seconds: f64) {
        self.answered.add(1, &[self.extension.clone(), KeyValue::new("status_code", i64::from(status_code))]);
        self.seconds.record(seconds, std::slice::from_ref(&self.extension));
    }

    pub(crate) fn expired(&self) {
        self.expired.add(1, std::slice::from_ref(&self.extension));
    }

    pub(crate) fn enter(&self) {
        self.in_flight.add(1, std::slice::from_ref(&self.extension));
    }

    pub(crate) fn leave(&self) {
        self.in_flight.add(-1, std::slice::from_ref(&self.extension));
    }
}
