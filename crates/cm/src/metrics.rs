//! What the service counts.

use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;

use crate::status::Status;

#[derive(Clone)]
pub(crate) struct Metrics {
    validations: Counter<u64>,
    revocations: Counter<u64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let meter = opentelemetry::global::meter("cm");
        let validations = meter
            .u64_counter("bandar_cm_token_validations")
            .with_description(
                "Token validations by what was found: valid, refused (suspended or revoked), unknown.",
            )
            .build();
        let revocations = meter
            .u64_counter("bandar_cm_revocations_told")
            .with_description(
                "Events that tokens became useless, by whether they were told again (true) because they had not come back.",
            )
            .build();
        Self { validations, revocations }
    }

    pub(crate) fn revocation_told(&self, again: bool) {
        self.revocations.add(1, &[KeyValue::new("again", again)]);
    }

    pub(crate) fn validated(&self, status: Option<Status>) {
        let result = match status {
            Some(status) if status.is_valid() => "valid",
            Some(_) => "refused",
            None => "unknown",
        };
        self.validations.add(1, &[KeyValue::new("result", result)]);
    }
}
