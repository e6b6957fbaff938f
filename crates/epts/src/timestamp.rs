//! Timestamps that devices put into their samples.

use serde::Deserialize;
use serde_json::{Number, Value};

use crate::iso8601;
use crate::point::Micros;

const DAY_MICROS: i64 = 86_400_000_000;

/// How a device writes its timestamps (`time-series.timestamp.format`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub(crate) enum Format {
    /// ISO-8601 text.
    #[default]
    #[serde(rename = "iso8601")]
    Iso8601,
    /// Seconds since 1970, also with a fraction.
    #[serde(rename = "seconds-unix-epoch")]
    Seconds,
    /// Milliseconds since 1970, also with a fraction.
    #[serde(rename = "millis-unix-epoch")]
    Millis,
    /// Microseconds since 1970.
    #[serde(rename = "micros-unix-epoch")]
    Micros,
    /// Nanoseconds since 1970; what is below a microsecond is cut off.
    #[serde(rename = "nanos-unix-epoch")]
    Nanos,
}

impl Format {
    /// The name in a configuration, for messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Iso8601 => "iso8601",
            Self::Seconds => "seconds-unix-epoch",
            Self::Millis => "millis-unix-epoch",
            Self::Micros => "micros-unix-epoch",
            Self::Nanos => "nanos-unix-epoch",
        }
    }

    /// The moment that the value stands for, if it is of this format. Numbers may come as text.
    pub(crate) fn read(self, value: &Value) -> Option<Micros> {
        let numerator_denominator = match self {
            Self::Iso8601 => return iso8601::parse(value.as_str()?).map(Micros::from_datetime),
            Self::Seconds => (1_000_000, 1),
            Self::Millis => (1_000, 1),
            Self::Micros => (1, 1),
            Self::Nanos => (1, 1_000),
        };
        match value {
            Value::Number(number) => scaled(number, numerator_denominator),
            Value::String(text) => scaled(&serde_json::from_str(text.trim()).ok()?, numerator_denominator),
            _ => None,
        }
    }
}

/// The number times a fraction, as microseconds.
fn scaled(number: &Number, (numerator, denominator): (i64, i64)) -> Option<Micros> {
    if let Some(integer) = number.as_i64() {
        return Micros::new(integer.checked_mul(numerator)?.div_euclid(denominator));
    }
    // A device that counts with a fraction; beyond ±2^53 µs (year 2255) a double has no whole microseconds any more.
    #[expect(clippy::cast_precision_loss, reason = "both are powers of ten up to 10^6")]
    let micros = (number.as_f64()? * numerator as f64 / denominator as f64).round();
    let is_exact = micros.abs() <= 9_007_199_254_740_992.0;
    #[expect(clippy::cast_possible_truncation, reason = "whole and within ±2^53")]
    is_exact.then_some(micros as i64).and_then(Micros::new)
}

/// Between which moments a device's timestamp must lie.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Where data is no longer kept, at the earliest 1970.
    pub(crate) from: Micros,
    /// How far ahead a device's clock may be.
    pub(crate) to: Micros,
    retention_days: u32,
}

/// Why a timestamp lies outside the bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OutOfBounds {
    #[error("{0} is before 1970")]
    Before1970(Micros),
    #[error("{0} is older than the {1} days for which data is kept (epts.retention_days)")]
    BeforeRetention(Micros, u32),
    #[error(
        "{0} is in the future, later than {1}, which is as far as a device's clock may be ahead (epts.future_max_ms)"
    )]
    InFuture(Micros, Micros),
}

impl Bounds {
    /// `retention_days` of 0 keeps data for ever.
    pub(crate) fn new(now: Micros, retention_days: u32, future_max_ms: u32) -> Self {
        let epoch = Micros::new(0).unwrap_or(now);
        let from = match retention_days {
            0 => epoch,
            days => {
                Micros::new(now.get() - i64::from(days) * DAY_MICROS).map_or(epoch, |from| from.max(epoch))
            }
        };
        let to = Micros::new(now.get() + i64::from(future_max_ms) * 1_000).unwrap_or(now);
        Self { from, to, retention_days }
    }

    pub(crate) fn check(&self, moment: Micros) -> Result<Micros, OutOfBounds> {
        if moment.get() < 0 {
            Err(OutOfBounds::Before1970(moment))
        } else if moment < self.from {
            Err(OutOfBounds::BeforeRetention(moment, self.retention_days))
        } else if moment > self.to {
            Err(OutOfBounds::InFuture(moment, self.to))
        } else {
            Ok(moment)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn each_format_reads_the_same_moment() {
        let expected = Micros::new(1_556_293_267_000_000);
        for (format, value) in [
            (Format::Iso8601, json!("2019-04-26T15:41:07+0000")),
            (Format::Seconds, json!(1_556_293_267)),
            (Format::Seconds, json!(1_556_293_267.0)),
            (Format::Seconds, json!("1556293267")),
            (Format::Millis, json!(1_556_293_267_000_i64)),
            (Format::Millis, json!("1556293267000")),
            (Format::Micros, json!(1_556_293_267_000_000_i64)),
            (Format::Nanos, json!(1_556_293_267_000_000_999_i64)),
        ] {
            assert_eq!(format.read(&value), expected, "{} {value}", format.name());
        }
        assert_eq!(Format::Seconds.read(&json!(1_556_293_267.25)), Micros::new(1_556_293_267_250_000));
        assert_eq!(Format::Millis.read(&json!(1.5)), Micros::new(1_500));
    }

    #[test]
    fn other_values_are_no_timestamp() {
        for value in [json!(null), json!(true), json!("soon"), json!(""), json!([1]), json!({}), json!(1e300)]
        {
            for format in [Format::Iso8601, Format::Seconds, Format::Millis, Format::Micros, Format::Nanos] {
                assert_eq!(format.read(&value), None, "{} {value}", format.name());
            }
        }
        assert_eq!(Format::Iso8601.read(&json!(1_556_293_267)), None);
        assert_eq!(Format::Seconds.read(&json!(i64::MAX)), None);
        assert_eq!(Format::Micros.read(&json!(i64::MAX)), None);
    }

    #[test]
    fn bounds_name_what_is_wrong() {
        let now = Micros::new(1_700_000_000_000_000).unwrap();
        let forever = Bounds::new(now, 0, 86_400_000);
        assert!(forever.check(Micros::new(0).unwrap()).is_ok());
        assert!(forever.check(now).is_ok());
        let message =
            |bounds: &Bounds, micros| bounds.check(Micros::new(micros).unwrap()).unwrap_err().to_string();
        assert!(message(&forever, -1).contains("before 1970"));
        assert!(message(&forever, now.get() + DAY_MICROS + 1).contains("in the future"));
        let month = Bounds::new(now, 30, 0);
        assert!(message(&month, now.get() - 31 * DAY_MICROS).contains("30 days"));
        assert!(month.check(Micros::new(now.get() - 29 * DAY_MICROS).unwrap()).is_ok());
    }

    proptest! {
        #[test]
        fn whole_units_are_read_without_loss(seconds in 0_i64..4_102_444_800) {
            let moment = Micros::new(seconds * 1_000_000);
            prop_assert_eq!(Format::Seconds.read(&json!(seconds)), moment);
            prop_assert_eq!(Format::Millis.read(&json!(seconds * 1_000)), moment);
            prop_assert_eq!(Format::Nanos.read(&json!(seconds * 1_000_000_000)), moment);
        }

        #[test]
        fn no_number_breaks_it(integer in any::<i64>(), double in any::<f64>()) {
            for format in [Format::Seconds, Format::Millis, Format::Micros, Format::Nanos] {
                format.read(&json!(integer));
                format.read(&json!(double));
            }
        }
    }
}
