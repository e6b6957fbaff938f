//! An application's settings for time series, at Kaa's keys.
//!
//! ```json
//! {"time-series": {
//!   "auto-extract": true,
//!   "names": {"location": {"values": [
//!     {"path": "$.location.lat", "name": "lat", "type": "number"},
//!     {"path": "$.location.lon", "name": "lon", "type": "number"}]}},
//!   "timestamp": {"path": "$.ts", "format": "iso8601", "fallback-strategy": "fail"}}}
//! ```

use std::collections::{BTreeMap, HashSet};

use ids::TimeSeriesName;
use serde::{Deserialize, Deserializer};

use crate::extraction::{Extraction, Fallback, Series, SeriesValue, TimestampRule, ValueType};
use crate::json_path::JsonPath;
use crate::point::DEFAULT_VALUE_NAME;
use crate::timestamp::Format;

const SERIES_MAX: usize = 1_000;
const VALUES_MAX: usize = 100;
const VALUE_NAME_BYTES_MAX: usize = 128;
const VALUE_NAME_FORBIDDEN: [char; 8] = ['\\', '^', '$', '\'', '"', '=', ',', '\0'];
const VALUE_NAMES_RESERVED: [&str; 5] = ["time", "kaaEndpointID", "kaaEmpty", "_field", "_measurement"];

/// The settings, ready to be applied, or what is wrong with them. They are read even when they are faulty, so that a
/// device's message can be answered with the fault's name.
#[derive(Debug)]
pub(crate) struct EptsSettings {
    pub(crate) extraction: Result<Extraction, SettingsFault>,
}

/// What is wrong with an application's settings: a configuration key and a reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the time series settings of the application are wrong at {key}: {reason}")]
pub(crate) struct SettingsFault {
    key: String,
    reason: String,
}

impl SettingsFault {
    fn new(key: impl Into<String>, reason: impl ToString) -> Self {
        Self { key: key.into(), reason: reason.to_string() }
    }
}

/// Without settings all is extracted automatically, at the server's time.
impl Default for EptsSettings {
    fn default() -> Self {
        Self { extraction: extraction(Block::default().time_series) }
    }
}

impl<'de> Deserialize<'de> for EptsSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = serde_json::Value::deserialize(deserializer)?;
        let extraction = Block::deserialize(json)
            .map_err(|error| SettingsFault::new("time-series", error))
            .and_then(|block| extraction(block.time_series));
        Ok(Self { extraction })
    }
}

/// The block as it is written. Unknown keys are other services' or a later version's and do no harm.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Block {
    time_series: TimeSeriesBlock,
}

#[derive(Debug, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct TimeSeriesBlock {
    auto_extract: bool,
    names: BTreeMap<String, SeriesBlock>,
    timestamp: Option<TimestampBlock>,
}

impl Default for TimeSeriesBlock {
    fn default() -> Self {
        Self { auto_extract: true, names: BTreeMap::new(), timestamp: None }
    }
}

#[derive(Debug, Deserialize)]
struct SeriesBlock {
    #[serde(default)]
    values: Vec<ValueBlock>,
}

#[derive(Debug, Deserialize)]
struct ValueBlock {
    path: String,
    name: Option<String>,
    #[serde(rename = "type")]
    value_type: Option<ValueType>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct TimestampBlock {
    path: Option<String>,
    #[serde(default)]
    format: Format,
    #[serde(default)]
    fallback_strategy: Fallback,
}

fn extraction(block: TimeSeriesBlock) -> Result<Extraction, SettingsFault> {
    if block.names.len() > SERIES_MAX {
        return Err(SettingsFault::new(
            "time-series.names",
            format!("there are more than {SERIES_MAX} series"),
        ));
    }
    let series =
        block.names.iter().map(|(name, series)| configured_series(name, series)).collect::<Result<_, _>>()?;
    let timestamp = match block.timestamp {
        Some(TimestampBlock { path: Some(path), format, fallback_strategy }) => {
            let path = JsonPath::parse(&path)
                .map_err(|error| SettingsFault::new("time-series.timestamp.path", error))?;
            Some(TimestampRule { path, format, fallback: fallback_strategy })
        }
        _ => None,
    };
    Ok(Extraction { auto_extract: block.auto_extract, series, timestamp })
}

fn configured_series(name: &str, block: &SeriesBlock) -> Result<Series, SettingsFault> {
    let key = format!("time-series.names.{name}");
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    let parsed = TimeSeriesName::parse(name).ok().filter(|_| is_plain);
    let Some(name) = parsed else {
        return Err(SettingsFault::new(key, "a name has 1 to 128 characters out of A-Z a-z 0-9 - _"));
    };
    if block.values.is_empty() || block.values.len() > VALUES_MAX {
        return Err(SettingsFault::new(
            format!("{key}.values"),
            format!("there must be 1 to {VALUES_MAX} values"),
        ));
    }
    let mut names = HashSet::new();
    let mut values = Vec::with_capacity(block.values.len());
    for (index, block) in block.values.iter().enumerate() {
        let fault =
            |part: &str, reason: String| SettingsFault::new(format!("{key}.values[{index}].{part}"), reason);
        let path = JsonPath::parse(&block.path).map_err(|error| fault("path", error.to_string()))?;
        let name = block.name.clone().unwrap_or_else(|| DEFAULT_VALUE_NAME.to_owned());
        check_value_name(&name).map_err(|reason| fault("name", reason))?;
        if !names.insert(name.clone()) {
            return Err(fault("name", format!("two values are called `{name}`")));
        }
        values.push(SeriesValue { name, path, value_type: block.value_type });
    }
    Ok(Series { name, values })
}

/// Tells what is wrong with a value's name: Kaa's rules, so that its clients can read all that is stored.
pub(crate) fn check_value_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > VALUE_NAME_BYTES_MAX {
        return Err(format!("a value name has 1 to {VALUE_NAME_BYTES_MAX} bytes"));
    }
    if name.contains(VALUE_NAME_FORBIDDEN) {
        return Err(r#"a value name has none of \ ^ $ ' " = , and no U+0000"#.to_owned());
    }
    if VALUE_NAMES_RESERVED.contains(&name) {
        return Err(format!("the value name `{name}` is reserved"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(json: serde_json::Value) -> Result<Extraction, SettingsFault> {
        serde_json::from_value::<EptsSettings>(json).unwrap().extraction
    }

    #[test]
    fn without_settings_all_is_extracted_at_server_time() {
        for settings in [EptsSettings::default().extraction.unwrap(), read(json!({})).unwrap()] {
            assert!(settings.auto_extract && settings.series.is_empty() && settings.timestamp.is_none());
        }
    }

    #[test]
    fn kaas_keys_are_read() {
        let settings = read(json!({"time-series": {
            "auto-extract": false,
            "names": {"location": {"values": [
                {"path": "$.location.lat", "name": "lat", "type": "number"},
                {"path": "location.name", "type": "string"}]}},
            "timestamp": {"path": "timestamp", "format": "millis-unix-epoch", "fallback-strategy": "server-timestamp"}
        }, "later": 1}))
        .unwrap();
        assert!(!settings.auto_extract);
        let names: Vec<&str> = settings.series[0].values.iter().map(|value| value.name.as_str()).collect();
        assert_eq!(names, ["lat", "value"]);
        let timestamp = settings.timestamp.unwrap();
        assert_eq!((timestamp.format, timestamp.fallback), (Format::Millis, Fallback::ServerTimestamp));
    }

    #[test]
    fn the_examples_of_the_schema_are_read() {
        let examples = include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../proto-schemas/json/configuration/epts.app.examples.json"
        ));
        let examples: serde_json::Value = serde_json::from_str(examples).unwrap();
        for example in examples["valid"].as_array().unwrap() {
            read(example.clone()).unwrap();
        }
    }

    #[test]
    fn a_timestamp_is_iso8601_and_must_be_there_unless_said_otherwise() {
        let timestamp =
            read(json!({"time-series": {"timestamp": {"path": "ts"}}})).unwrap().timestamp.unwrap();
        assert_eq!((timestamp.format, timestamp.fallback), (Format::Iso8601, Fallback::Fail));
        assert!(
            read(json!({"time-series": {"timestamp": {"format": "iso8601"}}})).unwrap().timestamp.is_none()
        );
    }

    #[test]
    fn a_fault_names_its_key() {
        let series = |name: &str, values: serde_json::Value| {
            read(json!({"time-series": {"names": {name: {"values": values}}}})).unwrap_err().to_string()
        };
        let path = json!({"path": "$.a"});
        assert!(series("auto~x", json!([path])).contains("time-series.names.auto~x"));
        assert!(series("a", json!([])).contains("names.a.values"));
        assert!(series("a", json!([{"path": "$..a"}])).contains("names.a.values[0].path"));
        assert!(series("a", json!([path, path])).contains("two values are called `value`"));
        assert!(series("a", json!([{"path": "a", "name": "time"}])).contains("reserved"));
        assert!(series("a", json!([{"path": "a", "name": "x,y"}])).contains("values[0].name"));
        assert!(series("a", json!([{"path": "a", "type": "float"}])).contains("float"));
        let fault =
            read(json!({"time-series": {"timestamp": {"path": "ts", "format": "rfc1123"}}})).unwrap_err();
        assert!(fault.to_string().contains("rfc1123"));
    }
}
