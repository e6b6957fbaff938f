//! Section `[cm]`.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use crate::secret::TokenKey;

/// The key and the limits of the service.
#[derive(Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The secret under which tokens are hashed: at least 32 random bytes in hex or base64. Required. All
    /// replicas need the same, for ever: with another key every token is unknown.
    pub token_key: String,
    /// Tokens of one endpoint that are not revoked.
    pub tokens_per_endpoint_max: i64,
    /// How long a REST call waits for the endpoint register, in milliseconds.
    pub endpoint_timeout_ms: u64,
    /// Requests of other services that are answered at once, of each kind; more wait in the subscription.
    pub concurrent_requests_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            token_key: String::new(),
            tokens_per_endpoint_max: 100,
            endpoint_timeout_ms: 3_000,
            concurrent_requests_max: 64,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Config")
            .field("token_key", &"***")
            .field("tokens_per_endpoint_max", &self.tokens_per_endpoint_max)
            .field("endpoint_timeout_ms", &self.endpoint_timeout_ms)
            .field("concurrent_requests_max", &self.concurrent_requests_max)
            .finish()
    }
}

impl Config {
    /// Faults that the types cannot express, as (key, message).
    pub(crate) fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if let Err(invalid) = TokenKey::parse(&self.token_key) {
            faults.push(("token_key", invalid.to_string()));
        }
        if self.tokens_per_endpoint_max < 1 {
            faults.push(("tokens_per_endpoint_max", "must be at least 1".to_owned()));
        }
        if !(100..=20_000).contains(&self.endpoint_timeout_ms) {
            faults.push(("endpoint_timeout_ms", "must be from 100 to 20000".to_owned()));
        }
        if self.concurrent_requests_max < 1 {
            faults.push(("concurrent_requests_max", "must be at least 1".to_owned()));
        }
        faults
    }

    pub(crate) fn endpoint_timeout(&self) -> Duration {
        Duration::from_millis(self.endpoint_timeout_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_has_no_default() {
        let keys = |config: &Config| config.faults().into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        assert_eq!(keys(&Config::default()), ["token_key"]);
        let good = Config { token_key: "5a".repeat(32), ..Config::default() };
        assert!(keys(&good).is_empty());
        assert!(!format!("{good:?}").contains("5a5a"));
        let wrong = Config {
            token_key: "5a".to_owned(),
            tokens_per_endpoint_max: 0,
            endpoint_timeout_ms: 0,
            concurrent_requests_max: 0,
        };
        let all = ["token_key", "tokens_per_endpoint_max", "endpoint_timeout_ms", "concurrent_requests_max"];
        assert_eq!(keys(&wrong), all);
    }
}
