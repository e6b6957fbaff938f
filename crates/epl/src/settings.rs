//! Where an application wants its endpoints' connectivity to be told, at Kaa's keys.

use ids::TimeSeriesName;
use serde::{Deserialize, Deserializer};

/// The settings of an application or a version of it. What is not named is not told.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Settings {
    pub(crate) connectivity: Connectivity,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(crate) struct Connectivity {
    pub(crate) metadata_keys: MetadataKeys,
    pub(crate) time_series: TimeSeries,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(crate) struct MetadataKeys {
    /// Gets true or false.
    #[serde(deserialize_with = "metadata_key")]
    pub(crate) state: Option<String>,
    /// Gets the time of the last transition.
    #[serde(deserialize_with = "metadata_key")]
    pub(crate) state_ts: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct TimeSeries {
    /// Gets a point at each transition.
    pub(crate) name: Option<TimeSeriesName>,
}

fn metadata_key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let key = Option::<String>::deserialize(deserializer)?;
    let is_key =
        |key: &str| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    match key {
        Some(key) if !is_key(&key) => {
            Err(serde::de::Error::custom("a metadata key is one or more characters out of A-Z a-z 0-9 _"))
        }
        key => Ok(key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn kaas_keys_are_read() {
        let settings: Settings = serde_json::from_value(json!({"connectivity": {
            "metadata-keys": {"state": "connected", "state-ts": "stateUpdateTs"},
            "time-series": {"name": "connectivity"},
        }}))
        .unwrap();
        let Connectivity { metadata_keys, time_series } = settings.connectivity;
        assert_eq!(metadata_keys.state.as_deref(), Some("connected"));
        assert_eq!(metadata_keys.state_ts.as_deref(), Some("stateUpdateTs"));
        assert_eq!(time_series.name.unwrap().as_str(), "connectivity");
    }

    #[test]
    fn the_examples_of_the_schema_are_read() {
        let examples = include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../proto-schemas/json/configuration/epl.app.examples.json"
        ));
        let examples: Value = serde_json::from_str(examples).unwrap();
        for example in examples["valid"].as_array().unwrap() {
            serde_json::from_value::<Settings>(example.clone()).unwrap();
        }
        let wrong = json!({"connectivity": {"metadata-keys": {"state": "a b"}}});
        assert!(serde_json::from_value::<Settings>(wrong).is_err());
    }
}
