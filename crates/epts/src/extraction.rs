//! Points out of samples: pure, and the only place that decides what a device's data means.

use bytes::Bytes;
use ids::TimeSeriesName;
use serde::Deserialize;
use serde_json::Value;

use crate::clock::Clock;
use crate::json_path::JsonPath;
use crate::point::{Point, Sample, Scalar, Stamp, UNEXTRACTED_SERIES, Values};
use crate::timestamp::{Bounds, Format};

/// What to take from the samples of one application version.
#[derive(Debug)]
pub(crate) struct Extraction {
    /// Each numeric top-level field becomes a series `auto~<field>`.
    pub(crate) auto_extract: bool,
    pub(crate) series: Vec<Series>,
    /// None: samples carry no timestamp and get the server's time.
    pub(crate) timestamp: Option<TimestampRule>,
}

/// A configured series: a sample yields a point when it has at least one of the values.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) name: TimeSeriesName,
    pub(crate) values: Vec<SeriesValue>,
}

#[derive(Debug)]
pub(crate) struct SeriesValue {
    pub(crate) name: String,
    pub(crate) path: JsonPath,
    /// None: any scalar as it is, arrays and objects as JSON text.
    pub(crate) value_type: Option<ValueType>,
}

/// The type that a configured value must have. `null` is always allowed and stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ValueType {
    Number,
    /// Text; arrays and objects are stored as their JSON text.
    String,
    Boolean,
}

impl ValueType {
    fn name(self) -> &'static str {
        match self {
            Self::Number => "number",
            Self::String => "string",
            Self::Boolean => "boolean",
        }
    }
}

#[derive(Debug)]
pub(crate) struct TimestampRule {
    pub(crate) path: JsonPath,
    pub(crate) format: Format,
    pub(crate) fallback: Fallback,
}

/// What happens to a sample without a usable timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fallback {
    /// It gets the server's time.
    ServerTimestamp,
    /// It is refused, and with it its batch.
    #[default]
    Fail,
}

/// What came out of a message, and what was left on the way.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Extracted {
    pub(crate) samples: Vec<Sample>,
    /// Points in all samples.
    pub(crate) points: usize,
    /// Numeric fields whose names cannot be part of a series name.
    pub(crate) skipped_fields: u64,
    /// Samples that got the server's time because their own could not be used.
    pub(crate) fallbacks: u64,
}

/// Why a message is refused as a whole; nothing of it is stored. Samples count from 0, as in the batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("sample {sample} is not valid JSON: {reason}")]
    NotJson { sample: usize, reason: String },
    #[error("sample {sample}: series {series} expects a {expected} at {path}, found {found}")]
    WrongType { sample: usize, series: String, path: String, expected: &'static str, found: &'static str },
    #[error("sample {sample}: series {series} has the character U+0000 at {path}, which cannot be stored")]
    Nul { sample: usize, series: String, path: String },
    #[error(
        "sample {sample} has no timestamp at {path}, and the application is configured to refuse such samples"
    )]
    NoTimestamp { sample: usize, path: String },
    #[error("sample {sample}: the timestamp at {path} is not of the format {format}")]
    TimestampFormat { sample: usize, path: String, format: &'static str },
    #[error("sample {sample}: the timestamp {reason}")]
    TimestampBounds { sample: usize, reason: String },
    #[error("the message has more than {limit} points (epts.points_per_message_max); send smaller batches")]
    TooManyPoints { limit: usize },
}

impl Refusal {
    /// The name under which refusals of this kind are counted.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NotJson { .. } => "not-json",
            Self::WrongType { .. } => "wrong-type",
            Self::Nul { .. } => "nul-character",
            Self::NoTimestamp { .. } | Self::TimestampFormat { .. } | Self::TimestampBounds { .. } => {
                "timestamp"
            }
            Self::TooManyPoints { .. } => "too-many-points",
        }
    }

    pub(crate) fn status_code(&self) -> i32 {
        match self {
            Self::TooManyPoints { .. } => 413,
            _ => 400,
        }
    }
}

/// What extraction needs to know beyond an application's settings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) bounds: Bounds,
    pub(crate) points_max: usize,
}

impl Extraction {
    /// Takes the points from the samples of one message, in their order.
    pub(crate) fn extract(
        &self,
        samples: &[Bytes],
        limits: &Limits,
        clock: &Clock,
    ) -> Result<Extracted, Refusal> {
        let mut extracted = Extracted { samples: Vec::with_capacity(samples.len()), ..Extracted::default() };
        for (index, bytes) in samples.iter().enumerate() {
            let json: Value = serde_json::from_slice(bytes)
                .map_err(|error| Refusal::NotJson { sample: index, reason: error.to_string() })?;
            let stamp = self.stamp(index, &json, limits, clock, &mut extracted)?;
            let mut points = self.configured(index, &json)?;
            if self.auto_extract {
                self.automatic(&json, &mut points, &mut extracted);
            }
            if points.is_empty() {
                points.push(unextracted(index, bytes)?);
            }
            extracted.points += points.len();
            if extracted.points > limits.points_max {
                return Err(Refusal::TooManyPoints { limit: limits.points_max });
            }
            extracted.samples.push(Sample { stamp, points });
        }
        Ok(extracted)
    }

    fn stamp(
        &self,
        sample: usize,
        json: &Value,
        limits: &Limits,
        clock: &Clock,
        extracted: &mut Extracted,
    ) -> Result<Stamp, Refusal> {
        let Some(rule) = &self.timestamp else { return Ok(Stamp::Server(clock.next())) };
        match (rule.stamp(sample, json, limits), rule.fallback) {
            (Ok(stamp), _) => Ok(stamp),
            (Err(_), Fallback::ServerTimestamp) => {
                extracted.fallbacks += 1;
                Ok(Stamp::Server(clock.next()))
            }
            (Err(refusal), Fallback::Fail) => Err(refusal),
        }
    }

    fn configured(&self, sample: usize, json: &Value) -> Result<Vec<Point>, Refusal> {
        let mut points = Vec::new();
        for series in &self.series {
            let mut named = Vec::new();
            for value in &series.values {
                if let Some(found) = value.path.find(json) {
                    named.push((value.name.clone(), value.scalar(sample, series, found)?));
                }
            }
            if let Some(values) = Values::new(named) {
                points.push(Point { series: series.name.clone(), values });
            }
        }
        Ok(points)
    }

    fn automatic(&self, json: &Value, points: &mut Vec<Point>, extracted: &mut Extracted) {
        let Some(fields) = json.as_object() else { return };
        // The timestamp says when something was measured; it is no measurement.
        let timestamp_field = self.timestamp.as_ref().and_then(|rule| rule.path.top_level_field());
        for (field, value) in fields {
            let Value::Number(number) = value else { continue };
            if timestamp_field == Some(field) {
                continue;
            }
            match auto_series(field) {
                Some(series) => points.push(Point { series, values: Values::number(number) }),
                None => extracted.skipped_fields += 1,
            }
        }
    }
}

impl TimestampRule {
    fn stamp(&self, sample: usize, json: &Value, limits: &Limits) -> Result<Stamp, Refusal> {
        let path = || self.path.to_string();
        let value = match self.path.find(json) {
            None | Some(Value::Null) => return Err(Refusal::NoTimestamp { sample, path: path() }),
            Some(value) => value,
        };
        let moment = self.format.read(value).ok_or_else(|| Refusal::TimestampFormat {
            sample,
            path: path(),
            format: self.format.name(),
        })?;
        let moment = limits
            .bounds
            .check(moment)
            .map_err(|error| Refusal::TimestampBounds { sample, reason: error.to_string() })?;
        Ok(Stamp::Device(moment))
    }
}

impl SeriesValue {
    fn scalar(&self, sample: usize, series: &Series, found: &Value) -> Result<Scalar, Refusal> {
        let scalar = match (self.value_type, found) {
            (_, Value::Null)
            | (None | Some(ValueType::Number), Value::Number(_))
            | (None | Some(ValueType::String), Value::String(_))
            | (None | Some(ValueType::Boolean), Value::Bool(_)) => Scalar::from_json(found),
            (None | Some(ValueType::String), composite @ (Value::Array(_) | Value::Object(_))) => {
                Some(Scalar::String(composite.to_string()))
            }
            _ => None,
        };
        let scalar = scalar.ok_or_else(|| Refusal::WrongType {
            sample,
            series: series.name.to_string(),
            path: self.path.to_string(),
            expected: self.value_type.map_or("scalar", ValueType::name),
            found: kind(found),
        })?;
        if scalar.has_nul() {
            return Err(Refusal::Nul {
                sample,
                series: series.name.to_string(),
                path: self.path.to_string(),
            });
        }
        Ok(scalar)
    }
}

fn auto_series(field: &str) -> Option<TimeSeriesName> {
    let is_eligible = !field.is_empty()
        && field.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    is_eligible.then(|| TimeSeriesName::parse(&format!("auto~{field}")).ok())?
}

/// Keeps the sample as it came. Valid JSON text never holds a bare U+0000.
fn unextracted(sample: usize, bytes: &Bytes) -> Result<Point, Refusal> {
    let fault = |reason: String| Refusal::NotJson { sample, reason };
    let text = std::str::from_utf8(bytes).map_err(|error| fault(error.to_string()))?;
    let series = TimeSeriesName::parse(UNEXTRACTED_SERIES).map_err(|error| fault(error.to_string()))?;
    Ok(Point { series, values: Values::text(text.to_owned()) })
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::point::Micros;
    use crate::settings::EptsSettings;

    fn extraction(time_series: Value) -> Extraction {
        let settings: EptsSettings = serde_json::from_value(json!({ "time-series": time_series })).unwrap();
        settings.extraction.unwrap()
    }

    fn limits() -> Limits {
        Limits { bounds: Bounds::new(Micros::now(), 0, 86_400_000), points_max: 100 }
    }

    fn extract(time_series: Value, samples: &[Value]) -> Result<Extracted, Refusal> {
        let samples: Vec<Bytes> = samples.iter().map(|sample| sample.to_string().into()).collect();
        extraction(time_series).extract(&samples, &limits(), &Clock::default())
    }

    /// The points of all samples as `series=values`.
    fn shown(extracted: &Extracted) -> Vec<String> {
        let show =
            |point: &Point| format!("{}={}", point.series, serde_json::to_string(&point.values).unwrap());
        extracted.samples.iter().flat_map(|sample| sample.points.iter().map(show)).collect()
    }

    #[test]
    fn numeric_top_level_fields_become_series() {
        let sample = json!({"temperature": 21, "humidity": 73.5, "name": "x", "on": true, "none": null,
            "location": {"lat": 1}, "bad name": 4, "": 5});
        let extracted = extract(json!({}), &[sample]).unwrap();
        assert_eq!(
            shown(&extracted),
            [r#"auto~humidity={"value":73.5}"#, r#"auto~temperature={"value":21.0}"#]
        );
        assert_eq!(extracted.skipped_fields, 2);
        assert!(matches!(extracted.samples[0].stamp, Stamp::Server(_)));
    }

    #[test]
    fn configured_series_take_the_values_that_are_there() {
        let settings = json!({"auto-extract": false, "names": {
            "location": {"values": [{"path": "$.location.lat", "name": "lat", "type": "number"},
                                    {"path": "$.location.lon", "name": "lon", "type": "number"}]},
            "tag": {"values": [{"path": "tag", "type": "string"}]},
            "absent": {"values": [{"path": "absent"}]}}});
        let samples = [
            json!({"location": {"lat": 34.1, "lon": null}, "tag": {"a": [1]}}),
            json!({"location": {"lon": 2}, "tag": "x"}),
        ];
        let extracted = extract(settings, &samples).unwrap();
        assert_eq!(
            shown(&extracted),
            [
                r#"location={"lat":34.1,"lon":null}"#,
                r#"tag={"value":"{\"a\":[1]}"}"#,
                r#"location={"lon":2}"#,
                r#"tag={"value":"x"}"#,
            ]
        );
    }

    #[test]
    fn a_sample_without_points_is_kept_as_it_came() {
        for sample in [json!(15), json!([1, 2]), json!({"a": "b"}), json!("x\u{0}y"), json!(null), json!({})]
        {
            let extracted = extract(json!({}), std::slice::from_ref(&sample)).unwrap();
            let kept = Values::text(sample.to_string());
            assert_eq!(extracted.samples[0].points[0].series.as_str(), UNEXTRACTED_SERIES);
            assert_eq!(extracted.samples[0].points[0].values, kept);
        }
        let root = json!({"names": {"n": {"values": [{"path": "$", "type": "number"}]}}});
        assert_eq!(shown(&extract(root, &[json!(15)]).unwrap()), [r#"n={"value":15.0}"#]);
    }

    #[test]
    fn a_refusal_names_sample_series_and_path() {
        let settings = json!({"names": {"s": {"values": [{"path": "$.a", "type": "number"}]}}});
        let message = |sample| extract(settings.clone(), &[json!({"a": 1}), sample]).unwrap_err().to_string();
        assert_eq!(message(json!({"a": "x"})), "sample 1: series s expects a number at $.a, found a string");
        let text = json!({"names": {"s": {"values": [{"path": "$.a", "type": "string"}]}}});
        let refusal = extract(text.clone(), &[json!({"a": "x\u{0}"})]).unwrap_err();
        assert_eq!(refusal.reason(), "nul-character");
        assert_eq!(extract(text, &[json!({"a": 1})]).unwrap_err().reason(), "wrong-type");
        let bytes = [Bytes::from_static(b"{\"a\":")];
        let refusal = extraction(json!({})).extract(&bytes, &limits(), &Clock::default()).unwrap_err();
        assert_eq!(refusal.reason(), "not-json");
        let many: Vec<Value> = (0..101).map(|n| json!({ "a": n })).collect();
        assert_eq!(extract(json!({}), &many).unwrap_err().status_code(), 413);
    }

    #[test]
    fn the_timestamp_of_the_device_counts_and_is_no_measurement() {
        let settings =
            json!({"timestamp": {"path": "ts", "format": "millis-unix-epoch", "fallback-strategy": "fail"}});
        let sample = json!({"ts": 1_556_293_267_000_i64, "t": 1});
        let extracted = extract(settings.clone(), &[sample]).unwrap();
        assert_eq!(extracted.samples[0].stamp, Stamp::Device(Micros::new(1_556_293_267_000_000).unwrap()));
        assert_eq!(shown(&extracted), [r#"auto~t={"value":1.0}"#]);
        for (sample, word) in [
            (json!({"t": 1}), "no timestamp at ts"),
            (json!({"ts": null}), "no timestamp at ts"),
            (json!({"ts": "soon"}), "format millis-unix-epoch"),
            (json!({"ts": -1}), "before 1970"),
            (json!({"ts": 4_102_444_800_000_i64}), "in the future"),
        ] {
            let message = extract(settings.clone(), &[sample]).unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        }
    }

    #[test]
    fn the_fallback_gives_the_servers_time() {
        let settings = json!({"timestamp": {"path": "ts", "fallback-strategy": "server-timestamp"}});
        let samples =
            [json!({"t": 1}), json!({"ts": "2019-04-26T15:41:07+0000", "t": 2}), json!({"ts": 5, "t": 3})];
        let extracted = extract(settings, &samples).unwrap();
        let server: Vec<bool> =
            extracted.samples.iter().map(|sample| matches!(sample.stamp, Stamp::Server(_))).collect();
        assert_eq!((server, extracted.fallbacks), (vec![true, false, true], 2));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map("[a-c]|\\PC{0,5}", inner, 0..6).prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_sample_yields_at_least_one_point_at_a_moment_of_its_own(samples in prop::collection::vec(any_json(), 0..8)) {
            let extracted = extract(json!({}), &samples).unwrap();
            prop_assert_eq!(extracted.samples.len(), samples.len());
            prop_assert!(extracted.samples.iter().all(|sample| !sample.points.is_empty()));
            let moments: Vec<Micros> = extracted.samples.iter().map(|sample| sample.stamp.moment()).collect();
            prop_assert!(moments.is_sorted_by(|a, b| a < b));
            let points: usize = extracted.samples.iter().map(|sample| sample.points.len()).sum();
            prop_assert_eq!(points, extracted.points);
        }

        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            drop(extraction(json!({})).extract(&[bytes.into()], &limits(), &Clock::default()));
        }

        #[test]
        fn nothing_with_a_nul_reaches_storage(sample in any_json(), text in "[a\\x00]{0,4}") {
            let settings = json!({"names": {"s": {"values": [{"path": "a"}, {"path": "b", "name": "b"}]}}});
            let sample = json!({"a": sample, "b": text});
            if let Ok(extracted) = extract(settings, &[sample]) {
                for point in extracted.samples.iter().flat_map(|sample| &sample.points) {
                    let json = serde_json::to_string(&point.values).unwrap();
                    prop_assert!(!json.replace("\\\\", "").contains("\\u0000"), "{}", json);
                }
            }
        }
    }
}
