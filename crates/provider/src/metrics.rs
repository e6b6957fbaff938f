//! Counts and times of requests.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::Histogram;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A response was sent; its status is the handler's matter.
    Answered,
    /// Its deadline had passed, or passed meanwhile.
    Expired,
    /// It was not the record that belongs to the subject, or had nowhere to reply to.
    Malformed,
    /// The connection to NATS was gone.
    Unsent,
}

pub(crate) struct Metrics {
    seconds: Histogram<f64>,
    request: &'static str,
}

impl Metrics {
    pub(crate) fn new(service: &'static str, request: &'static str) -> Self {
        let seconds = opentelemetry::global::meter(service)
            .f64_histogram(format!("bandar_{service}_request_seconds"))
            .with_description(
                "Requests of other services: time from receipt to response, by request and outcome.",
            )
            .build();
        Self { seconds, request }
    }

    pub(crate) fn finished(&self, outcome: Outcome, took: Duration) {
        let outcome = match outcome {
            Outcome::Answered => "answered",
            Outcome::Expired => "expired",
            Outcome::Malformed => "malformed",
            Outcome::Unsent => "unsent",
        };
        let labels = [KeyValue::new("request", self.request), KeyValue::new("outcome", outcome)];
        self.seconds.record(took.as_secs_f64(), &labels);
    }
}
