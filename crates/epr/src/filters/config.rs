//! Section `[epr.filters]`.

use serde::Deserialize;

/// The limits of filters.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FiltersConfig {
    /// Filters of one application.
    pub per_application_max: i64,
    /// Endpoints that are looked at in one transaction while a filter is PENDING.
    pub batch_endpoints: i64,
    /// Endpoints in one answer to 20/EFMP; of a filter that more endpoints match the list is refused.
    pub listed_endpoints_max: i64,
    /// How often filters are looked for whose matching another replica has left unfinished, in milliseconds.
    pub poll_interval_ms: u64,
}

impl Default for FiltersConfig {
    fn default() -> Self {
        Self {
            per_application_max: 100,
            batch_endpoints: 1_000,
            listed_endpoints_max: 10_000,
            poll_interval_ms: 2_000,
        }
    }
}

impl FiltersConfig {
    /// Faults that the types cannot express, as (key, message).
    pub(crate) fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if !(1..=1_000).contains(&self.per_application_max) {
            faults.push(("filters.per_application_max", "must be from 1 to 1000".to_owned()));
        }
        if !(1..=10_000).contains(&self.batch_endpoints) {
            faults.push(("filters.batch_endpoints", "must be from 1 to 10000".to_owned()));
        }
        if !(1..=1_000_000).contains(&self.listed_endpoints_max) {
            faults.push(("filters.listed_endpoints_max", "must be from 1 to 1000000".to_owned()));
        }
        if !(10..=60_000).contains(&self.poll_interval_ms) {
            faults.push(("filters.poll_interval_ms", "must be from 10 to 60000".to_owned()));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_in_order_and_each_fault_names_its_key() {
        assert!(FiltersConfig::default().faults().is_empty());
        let wrong = FiltersConfig {
            per_application_max: 0,
            batch_endpoints: 0,
            listed_endpoints_max: 0,
            poll_interval_ms: 0,
        };
        let keys: Vec<_> = wrong.faults().into_iter().map(|(key, _)| key).collect();
        assert_eq!(
            keys,
            [
                "filters.per_application_max",
                "filters.batch_endpoints",
                "filters.listed_endpoints_max",
                "filters.poll_interval_ms"
            ]
        );
    }
}
