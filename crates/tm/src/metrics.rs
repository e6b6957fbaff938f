//! What the service counts.

use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Metrics {
    authentications: Counter<u64>,
    logins: Counter<u64>,
    key_fetches: Counter<u64>,
}

/// What a credential was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CredentialKind {
    ApiKey,
    OwnToken,
    ExternalToken,
}

impl CredentialKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::ApiKey => "api_key",
            Self::OwnToken => "token",
            Self::ExternalToken => "oidc_token",
        }
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let meter = opentelemetry::global::meter("tm");
        let counter = |name: &'static str, description: &'static str| {
            meter.u64_counter(name).with_description(description).build()
        };
        Self {
            authentications: counter(
                "bandar_tm_authentications",
                "Credentials that were looked into, by kind (api_key, token, oidc_token) and status (200, 401, 403, 503).",
            ),
            logins: counter(
                "bandar_tm_logins",
                "Logins by grant (password, client_credentials, refresh_token) and result (ok, refused, locked, busy, failed).",
            ),
            key_fetches: counter(
                "bandar_tm_key_fetches",
                "Fetches of the keys of external issuers, by result (ok, failed).",
            ),
        }
    }

    pub(crate) fn authenticated(&self, kind: CredentialKind, status: i32) {
        let labels = [KeyValue::new("kind", kind.as_str()), KeyValue::new("status", i64::from(status))];
        self.authentications.add(1, &labels);
    }

    pub(crate) fn login(&self, grant: &'static str, result: &'static str) {
        self.logins.add(1, &[KeyValue::new("grant", grant), KeyValue::new("result", result)]);
    }

    pub(crate) fn keys_fetched(&self, ok: bool) {
        self.key_fetches.add(1, &[KeyValue::new("result", if ok { "ok" } else { "failed" })]);
    }
}
