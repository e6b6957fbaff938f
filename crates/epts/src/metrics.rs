//! What the service tells about itself on `/metrics` and over OTLP.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::metrics::{AsyncInstrument, Counter, Histogram};
use opentelemetry::{KeyValue, global};

use crate::books::{Balance, Books};

/// The instruments that are written to as things happen. The books are read when metrics are collected.
pub(crate) struct Metrics {
    commit_seconds: Histogram<f64>,
    commit_points: Histogram<u64>,
    commit_failures: Counter<u64>,
    restamps: Counter<u64>,
    skipped_fields: Counter<u64>,
    timestamp_fallbacks: Counter<u64>,
    unattributed: Counter<u64>,
}

impl Metrics {
    pub(crate) fn new(books: &Arc<Books>) -> Self {
        let meter = global::meter("epts");
        observe(books);
        Self {
            commit_seconds: meter
                .f64_histogram("bandar_epts_commit_duration_seconds")
                .with_description("Time from the first statement of a commit to its confirmation")
                .with_boundaries(vec![
                    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
                ])
                .build(),
            commit_points: meter
                .u64_histogram("bandar_epts_commit_points")
                .with_description("Points that one commit took together")
                .with_boundaries(vec![1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4])
                .build(),
            commit_failures: meter
                .u64_counter("bandar_epts_commit_failures")
                .with_description("Commits that failed, by cause")
                .build(),
            restamps: meter
                .u64_counter("bandar_epts_restamps")
                .with_description(
                    "Commits repeated because another replica had given an endpoint the same server time",
                )
                .build(),
            skipped_fields: meter
                .u64_counter("bandar_epts_skipped_fields")
                .with_description(
                    "Numeric fields not extracted because their names cannot be part of a series name",
                )
                .build(),
            timestamp_fallbacks: meter
                .u64_counter("bandar_epts_timestamp_fallbacks")
                .with_description(
                    "Samples stored at server time because their own timestamp could not be used",
                )
                .build(),
            unattributed: meter
                .u64_counter("bandar_epts_unattributed_messages")
                .with_description("Messages dropped or refused before their application was known, by reason")
                .build(),
        }
    }

    pub(crate) fn commit(&self, took: Duration, points: u64) {
        self.commit_seconds.record(took.as_secs_f64(), &[]);
        self.commit_points.record(points, &[]);
    }

    pub(crate) fn commit_failure(&self, cause: &'static str) {
        self.commit_failures.add(1, &[KeyValue::new("cause", cause)]);
    }

    pub(crate) fn restamp(&self) {
        self.restamps.add(1, &[]);
    }

    pub(crate) fn extraction(&self, skipped_fields: u64, timestamp_fallbacks: u64) {
        if skipped_fields > 0 {
            self.skipped_fields.add(skipped_fields, &[]);
        }
        if timestamp_fallbacks > 0 {
            self.timestamp_fallbacks.add(timestamp_fallbacks, &[]);
        }
    }

    pub(crate) fn unattributed(&self, reason: &'static str) {
        self.unattributed.add(1, &[KeyValue::new("reason", reason)]);
    }
}

/// Shows the books, by application.
fn observe(books: &Arc<Books>) {
    let meter = global::meter("epts");
    let shown = books.clone();
    meter
        .u64_observable_counter("bandar_epts_messages")
        .with_description("Messages by application and what became of them; received is the sum of the others and those in flight")
        .with_callback(move |observer| each(&shown, |application, balance| messages(observer, application, balance)))
        .build();
    let shown = books.clone();
    meter
        .u64_observable_counter("bandar_epts_points")
        .with_description("Points by application and what became of them; received is the sum of the others and those in flight")
        .with_callback(move |observer| each(&shown, |application, balance| points(observer, application, balance)))
        .build();
    let shown = books.clone();
    meter
        .u64_observable_gauge("bandar_epts_in_flight_messages")
        .with_description("Messages received and not yet decided, by application")
        .with_callback(move |observer| {
            each(&shown, |application, balance| {
                observer.observe(balance.messages.in_flight, std::slice::from_ref(application))
            });
        })
        .build();
}

fn each(books: &Books, mut show: impl FnMut(&KeyValue, &Balance)) {
    for (application, balance) in books.by_label() {
        show(&KeyValue::new("application", application), &balance);
    }
}

fn messages(observer: &dyn AsyncInstrument<u64>, application: &KeyValue, balance: &Balance) {
    let balance = &balance.messages;
    let outcomes = [
        ("received", balance.received),
        ("stored", balance.stored),
        ("failed", balance.failed),
        ("expired", balance.expired),
    ];
    for (outcome, count) in outcomes {
        observer.observe(count, &[application.clone(), KeyValue::new("outcome", outcome)]);
    }
    for (reason, count) in &balance.refused {
        let reason = KeyValue::new("reason", reason.clone());
        observer.observe(*count, &[application.clone(), KeyValue::new("outcome", "refused"), reason]);
    }
}

fn points(observer: &dyn AsyncInstrument<u64>, application: &KeyValue, balance: &Balance) {
    let balance = &balance.points;
    let outcomes = [
        ("received", balance.received),
        ("stored", balance.stored),
        ("duplicate", balance.duplicates),
        ("changed", balance.changed),
        ("refused", balance.refused),
        ("failed", balance.failed),
        ("expired", balance.expired),
    ];
    for (outcome, count) in outcomes {
        observer.observe(count, &[application.clone(), KeyValue::new("outcome", outcome)]);
    }
}
