//! Section `[epr]`.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use crate::batch::Sealer;
use crate::filters::FiltersConfig;
use crate::metadata::Limits;

/// The limits of the service.
#[derive(Clone, Deserialize)]
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
    /// Endpoints that one endpoint may contain.
    pub relations_per_endpoint_max: i64,
    /// The largest `offset` of a list of endpoints; whoever goes on from there uses `after`.
    pub list_offset_max: i64,
    /// Bytes of the metadata in one page of a list of endpoints, as the database writes them.
    pub list_metadata_bytes_max: usize,
    /// The secret under which the tokens in batch tasks are encrypted: at least 32 random bytes in hex or base64, the
    /// same for all replicas. When empty, each process makes one, and tokens of batch tasks cannot be read after it has
    /// ended.
    pub batch_key: String,
    /// Batch tasks of one tenant that are not finished.
    pub batch_tasks_max: i64,
    /// How long a batch task and its tokens can be asked for, in hours, from when it was given. What is not registered
    /// by then fails.
    pub batch_kept_hours: u64,
    /// The limits of filters.
    pub filters: FiltersConfig,
    /// How often unfinished deletions and batch tasks are looked for, in milliseconds.
    pub sweep_interval_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            metadata_bytes_max: 64 * 1024,
            metadata_keys_max: 256,
            token_timeout_ms: 5_000,
            concurrent_requests_max: 32,
            relations_per_endpoint_max: 1_000,
            list_offset_max: 10_000,
            list_metadata_bytes_max: 32 * 1024 * 1024,
            batch_key: String::new(),
            batch_tasks_max: 100,
            batch_kept_hours: 24,
            filters: FiltersConfig::default(),
            sweep_interval_ms: 1_000,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Config")
            .field("metadata_bytes_max", &self.metadata_bytes_max)
            .field("metadata_keys_max", &self.metadata_keys_max)
            .field("token_timeout_ms", &self.token_timeout_ms)
            .field("concurrent_requests_max", &self.concurrent_requests_max)
            .field("relations_per_endpoint_max", &self.relations_per_endpoint_max)
            .field("list_offset_max", &self.list_offset_max)
            .field("list_metadata_bytes_max", &self.list_metadata_bytes_max)
            .field("batch_key", &if self.batch_key.is_empty() { "" } else { "***" })
            .field("batch_tasks_max", &self.batch_tasks_max)
            .field("batch_kept_hours", &self.batch_kept_hours)
            .field("filters", &self.filters)
            .field("sweep_interval_ms", &self.sweep_interval_ms)
            .finish()
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
        if !(1..=100_000).contains(&self.relations_per_endpoint_max) {
            faults.push(("relations_per_endpoint_max", "must be from 1 to 100000".to_owned()));
        }
        if !(1_000..=10_000_000).contains(&self.list_offset_max) {
            faults.push(("list_offset_max", "must be from 1000 to 10000000".to_owned()));
        }
        // The database writes a blank behind each colon and comma; a single endpoint must fit.
        let bytes_min = self.metadata_bytes_max.saturating_mul(2);
        if !(bytes_min..=1024 * 1024 * 1024).contains(&self.list_metadata_bytes_max) {
            let rule = format!("must be from {bytes_min} (twice metadata_bytes_max) to 1073741824 bytes");
            faults.push(("list_metadata_bytes_max", rule));
        }
        if let Err(invalid) = Sealer::new(&self.batch_key) {
            faults.push(("batch_key", invalid.to_string()));
        }
        if !(1..=10_000).contains(&self.batch_tasks_max) {
            faults.push(("batch_tasks_max", "must be from 1 to 10000".to_owned()));
        }
        if !(1..=24 * 30).contains(&self.batch_kept_hours) {
            faults.push(("batch_kept_hours", "must be from 1 to 720".to_owned()));
        }
        if !(10..=60_000).contains(&self.sweep_interval_ms) {
            faults.push(("sweep_interval_ms", "must be from 10 to 60000".to_owned()));
        }
        faults.extend(self.filters.faults());
        faults
    }

    pub(crate) fn metadata_limits(&self) -> Limits {
        Limits { keys_max: self.metadata_keys_max, bytes_max: self.metadata_bytes_max }
    }

    pub(crate) fn batch_kept(&self) -> Duration {
        Duration::from_secs(self.batch_kept_hours * 60 * 60)
    }

    pub(crate) fn sweep_interval(&self) -> Duration {
        Duration::from_millis(self.sweep_interval_ms)
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
            relations_per_endpoint_max: 0,
            list_offset_max: 0,
            list_metadata_bytes_max: usize::MAX,
            batch_key: "x".to_owned(),
            batch_tasks_max: 0,
            batch_kept_hours: 0,
            filters: FiltersConfig { per_application_max: 0, ..FiltersConfig::default() },
            sweep_interval_ms: 0,
        };
        let keys: Vec<_> = wrong.faults().into_iter().map(|(key, _)| key).collect();
        assert_eq!(
            keys,
            [
                "metadata_bytes_max",
                "metadata_keys_max",
                "token_timeout_ms",
                "concurrent_requests_max",
                "relations_per_endpoint_max",
                "list_offset_max",
                "list_metadata_bytes_max",
                "batch_key",
                "batch_tasks_max",
                "batch_kept_hours",
                "sweep_interval_ms",
                "filters.per_application_max",
            ]
        );
    }

    #[test]
    fn debug_output_hides_the_key() {
        let config = Config { batch_key: "0123".to_owned(), ..Config::default() };
        assert!(!format!("{config:?}").contains("0123"));
    }
}
