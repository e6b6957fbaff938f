//! Points that come from other services, ready as they are (14/TSTP).

use ids::TimeSeriesName;
use ism::tstp;
use serde_json::Number;

use crate::extraction::{Extracted, Limits, Refusal};
use crate::point::{Micros, Point, Sample, Scalar, Stamp, Values};
use crate::settings::check_value_name;
use crate::work::Outcome;

/// The points of one event. Each carries its own time, so that a repeat stores nothing twice.
pub(crate) fn points(
    series: &TimeSeriesName,
    points: Vec<tstp::DataPoint>,
    limits: &Limits,
) -> Result<Extracted, Outcome> {
    if series.as_str().starts_with('~') {
        let message = format!("the series name {series} is reserved: it begins with ~");
        return Err(refused("series-name", message));
    }
    if points.len() > limits.points_max {
        return Err(Refusal::TooManyPoints { limit: limits.points_max }.into());
    }
    let mut extracted = Extracted { points: points.len(), ..Extracted::default() };
    for (index, point) in points.into_iter().enumerate() {
        let fault = |reason: &'static str, text: String| refused(reason, format!("point {index}: {text}"));
        let moment = point.timestamp.checked_mul(1_000).and_then(Micros::new);
        let moment = moment.ok_or_else(|| fault("timestamp", "the timestamp is out of range".to_owned()))?;
        let moment = limits.bounds.check(moment);
        let moment = moment.map_err(|error| fault("timestamp", format!("the timestamp {error}")))?;
        let mut named = Vec::with_capacity(point.values.len());
        for (name, value) in point.values {
            check_value_name(&name).map_err(|reason| fault("value", reason))?;
            let scalar =
                scalar(value).map_err(|reason| fault("value", format!("the value {name} {reason}")))?;
            named.push((name, scalar));
        }
        let values = Values::new(named).ok_or_else(|| fault("value", "it has no values".to_owned()))?;
        let points = vec![Point { series: series.clone(), values }];
        extracted.samples.push(Sample { stamp: Stamp::Device(moment), points });
    }
    Ok(extracted)
}

fn scalar(value: tstp::Value) -> Result<Scalar, &'static str> {
    let double = |double: f64| Number::from_f64(double).map(Scalar::Number).ok_or("is no finite number");
    let scalar = match value {
        tstp::Value::Null => Scalar::Null,
        tstp::Value::Boolean(boolean) => Scalar::Boolean(boolean),
        tstp::Value::Int(int) => Scalar::Number(int.into()),
        tstp::Value::Long(long) => Scalar::Number(long.into()),
        tstp::Value::Float(float) => double(float.into())?,
        tstp::Value::Double(number) => double(number)?,
        tstp::Value::String(text) => Scalar::String(text),
        // 14/TSTP encodes objects and arrays as text or bytes: what is text can be stored.
        tstp::Value::Bytes(bytes) => {
            Scalar::String(String::from_utf8(bytes.to_vec()).map_err(|_| "is bytes that are not UTF-8")?)
        }
    };
    if scalar.has_nul() { Err("has the character U+0000, which cannot be stored") } else { Ok(scalar) }
}

fn refused(reason: &'static str, message: String) -> Outcome {
    Outcome::Refused { reason, status_code: 400, message }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::timestamp::Bounds;

    const NOW_MS: i64 = 1_700_000_000_000;

    fn read(series: &str, timestamp: i64, values: &[(&str, tstp::Value)]) -> Result<Sample, String> {
        let now = Micros::new(NOW_MS * 1_000).unwrap();
        let limits = Limits { bounds: Bounds::new(now, 0, 1_000), points_max: 2 };
        let values: BTreeMap<_, _> =
            values.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let point = tstp::DataPoint { ingestion_timestamp: 0, timestamp, values };
        let extracted = points(&TimeSeriesName::parse(series).unwrap(), vec![point], &limits);
        extracted.map(|mut extracted| extracted.samples.remove(0)).map_err(|outcome| match outcome {
            Outcome::Refused { status_code: 400, message, .. } => message,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn every_type_of_value_is_stored() {
        use tstp::Value::{Boolean, Bytes, Double, Float, Int, Long, Null, String};
        let values = |value: tstp::Value| read("s", NOW_MS, &[("v", value)]).unwrap().points.remove(0).values;
        for (value, json) in [
            (Int(1), "1"),
            (Long(i64::MAX), "9223372036854775807"),
            (Float(0.5), "0.5"),
            (Double(-2.5), "-2.5"),
            (Boolean(true), "true"),
            (Null, "null"),
            (String("a".to_owned()), "\"a\""),
            (Bytes(bytes::Bytes::from_static(b"{}")), "\"{}\""),
        ] {
            assert_eq!(serde_json::to_string(&values(value)).unwrap(), format!("{{\"v\":{json}}}"));
        }
        let sample = read("connectivity", NOW_MS, &[("value", Double(1.0))]).unwrap();
        assert_eq!(sample.stamp, Stamp::Device(Micros::new(NOW_MS * 1_000).unwrap()));
        assert_eq!(sample.points[0].values, Values::Number(1.0));
    }

    #[test]
    fn what_cannot_be_stored_is_refused_with_a_reason() {
        use tstp::Value::{Bytes, Double, Int, String};
        let one = [("value", Int(1))];
        assert!(read("~unextracted", NOW_MS, &one).unwrap_err().contains("reserved"));
        assert!(read("s", -1, &one).unwrap_err().contains("before 1970"));
        assert!(read("s", NOW_MS + 2_000, &one).unwrap_err().contains("in the future"));
        assert!(read("s", i64::MAX, &one).unwrap_err().contains("out of range"));
        assert!(read("s", NOW_MS, &[]).unwrap_err().contains("no values"));
        assert!(read("s", NOW_MS, &[("time", Int(1))]).unwrap_err().contains("reserved"));
        assert!(read("s", NOW_MS, &[("v", Double(f64::NAN))]).unwrap_err().contains("finite"));
        assert!(read("s", NOW_MS, &[("v", String("\0".to_owned()))]).unwrap_err().contains("U+0000"));
        let bytes = bytes::Bytes::from_static(b"\xff");
        assert!(read("s", NOW_MS, &[("v", Bytes(bytes))]).unwrap_err().contains("UTF-8"));
    }
}
