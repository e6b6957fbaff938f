//! Section `[epr]`.

use std::time::Duration;

use serde::Deserialize;

/// The limits of the service.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Bytes of one endpoint's metadata, as JSON.
    pub metadata_bytes_max: usize,
    /// Metadata keys of one endpoint.
    pub metadata_keys_max: usize,
    /// How long the registration of an endpoint may wait for its token, in milliseconds. The id of an
    /// interrupted registration is reserved 10 seconds longer.
    pub token_timeout_ms: u64,
    /// Requests of other services that are answered at once; more wait in the subscription.
    pub concurrent_requests_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            metadata_bytes_max: 64 * 1024,
            metadata_keys_max: 256,
            token_timeout_ms: 5_000,
            concurrent_requests_max: 32,
        }
    }
}

impl Config {
    /// Faults that the types cannot express, as (key, message).
    pub(crate) fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if !(2..=1024 * 1024).contains(&self.metadata_bytes_max) {
            faults.push(("metadata_bytes_max", "must be from 2 to 1048576 bytes".to_owned()));
        }
        if !(1..=10_000).contains(&self.metadata_keys_max) {
            faults.push(("metadata_keys_max", "must be from 1 to 10000".to_owned()));
        }
        if !(100..=20_000).contains(&self.token_timeout_ms) {
            faults.push(("token_timeout_ms", "must be from 100 to 20000".to_owned()));
        }
        if self.concurrent_requests_max < 1 {
            faults.push(("concurrent_requests_max", "must be at least 1".to_owned()));
        }
        faults
    }

    pub(crate) fn token_timeout(&self) -> Duration {
        Duration::from_millis(self.token_timeout_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_in_order_and_each_fault_names_its_key() {
        assert!(Config::default().faults().is_empty());
        let wrong = Config {
            metadata_bytes_max: 0,
            metadata_keys_max: 0,
            token_timeout_ms: 0,
            concurrent_requests_max: 0,
        };
        let keys: Vec<_> = wrong.faults().into_iter().map(|(key, _)| key).collect();
        assert_eq!(
            keys,
            ["metadata_bytes_max", "metadata_keys_max", "token_timeout_ms", "concurrent_requests_max"]
        );
    }
}
