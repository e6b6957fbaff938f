//! What the service counts.

use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;

/// How a client showed who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Method {
    Basic,
    Certificate,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Accepted,
    /// Right, but suspended, revoked or expired.
    Refused,
    /// Unknown, or the password is wrong.
    Unknown,
    Throttled,
    /// Nobody could look.
    Unavailable,
}

pub(crate) struct Metrics {
    authentications: Counter<u64>,
    announcements: Counter<u64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let meter = opentelemetry::global::meter("ccm");
        let authentications = meter
            .u64_counter("bandar_ccm_authentications")
            .with_description(
                "Client authentications by method (basic, certificate) and result: accepted, refused (suspended, revoked or expired), unknown (or the password is wrong), throttled, unavailable.",
            )
            .build();
        let announcements = meter
            .u64_counter("bandar_ccm_announcements")
            .with_description("Events sent: credentials revoked, authorities changed.")
            .build();
        Self { authentications, announcements }
    }

    pub(crate) fn authenticated(&self, method: Method, outcome: Outcome) {
        let method = match method {
            Method::Basic => "basic",
            Method::Certificate => "certificate",
        };
        let result = match outcome {
            Outcome::Accepted => "accepted",
            Outcome::Refused => "refused",
            Outcome::Unknown => "unknown",
            Outcome::Throttled => "throttled",
            Outcome::Unavailable => "unavailable",
        };
        self.authentications.add(1, &[KeyValue::new("method", method), KeyValue::new("result", result)]);
    }

    pub(crate) fn announced(&self, count: usize) {
        self.announcements.add(u64::try_from(count).unwrap_or(u64::MAX), &[]);
    }
}
