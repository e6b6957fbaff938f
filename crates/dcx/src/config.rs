//! Configuration of the service, and settings of applications.

use ids::InstanceName;
use serde::Deserialize;

/// Section `[dcx]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Receivers (13/DSTP) that must have stored the samples before a device gets its receipt.
    pub reliable_receivers: Vec<InstanceName>,
    /// Samples in one message.
    pub batch_samples_max: usize,
    /// Messages that are handled at once; more are answered 503.
    pub in_flight_messages_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        let epts = InstanceName::parse("epts").into_iter().collect();
        Self { reliable_receivers: epts, batch_samples_max: 10_000, in_flight_messages_max: 8_192 }
    }
}

impl Config {
    pub(crate) fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if self.reliable_receivers.is_empty() {
            let message = "must name at least one receiver; without one a receipt would promise nothing";
            faults.push(("reliable_receivers", message.to_owned()));
        }
        if self.batch_samples_max == 0 {
            faults.push(("batch_samples_max", "must be at least 1".to_owned()));
        }
        if self.in_flight_messages_max == 0 {
            faults.push(("in_flight_messages_max", "must be at least 1".to_owned()));
        }
        faults
    }
}

/// An application's settings for this service, at Kaa's level of application or version.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(crate) struct Settings {
    /// In place of the service's own list; an empty list counts as none.
    pub(crate) reliable_receivers: Option<Vec<InstanceName>>,
    /// Whether everything below `/json` is taken as `/json`.
    pub(crate) relaxed_resource_path_validation: Switch,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Switch {
    pub(crate) enabled: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_schema_are_read() {
        let examples = include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../proto-schemas/json/configuration/dcx.app.examples.json"
        ));
        let examples: serde_json::Value = serde_json::from_str(examples).unwrap();
        for example in examples["valid"].as_array().unwrap() {
            serde_json::from_value::<Settings>(example.clone()).unwrap();
        }
        let wrong = serde_json::json!({"reliable-receivers": ["a.b"]});
        assert!(serde_json::from_value::<Settings>(wrong).is_err());
    }
}
