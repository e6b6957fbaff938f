//! What is stored: points with values, grouped into the samples that they came from.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use ids::TimeSeriesName;
use serde::Serialize;
use serde::ser::{SerializeMap as _, Serializer};
use serde_json::{Number, Value};

/// The value name that stands when a configuration names none, and that auto-extracted series use.
pub(crate) const DEFAULT_VALUE_NAME: &str = "value";

/// The series under which a sample is kept from which no point could be taken. Names of series that begin with `~`
/// cannot come from a device or a configuration.
pub(crate) const UNEXTRACTED_SERIES: &str = "~unextracted";

/// The largest integer up to which every integer has a double of its own.
const EXACT_INTEGER_MAX: i64 = 1 << 53;

/// A moment: microseconds since 1970-01-01T00:00:00Z, the resolution that PostgreSQL keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Micros(i64);

impl Micros {
    /// The moment, if the calendar of `chrono` reaches it.
    pub(crate) fn new(micros: i64) -> Option<Self> {
        DateTime::from_timestamp_micros(micros).map(|_| Self(micros))
    }

    pub(crate) fn from_datetime(moment: DateTime<Utc>) -> Self {
        Self(moment.timestamp_micros())
    }

    pub(crate) fn now() -> Self {
        Self::from_datetime(Utc::now())
    }

    pub(crate) fn get(self) -> i64 {
        self.0
    }

    /// Milliseconds since the epoch, rounded down: what 14/TSTP carries.
    pub(crate) fn millis(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    pub(crate) fn datetime(self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.0).unwrap_or_default()
    }
}

/// ISO-8601 in UTC with `Z`; a fraction only where there is one.
impl fmt::Display for Micros {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.datetime().to_rfc3339_opts(SecondsFormat::AutoSi, true))
    }
}

/// One value of a point.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Scalar {
    Null,
    Boolean(bool),
    Number(Number),
    String(String),
}

impl Scalar {
    /// The scalar that a JSON value is, or `None` for an array or object.
    pub(crate) fn from_json(value: &Value) -> Option<Self> {
        match value {
            Value::Null => Some(Self::Null),
            Value::Bool(boolean) => Some(Self::Boolean(*boolean)),
            Value::Number(number) => Some(Self::Number(number.clone())),
            Value::String(text) => Some(Self::String(text.clone())),
            Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// PostgreSQL cannot hold U+0000 in any text.
    pub(crate) fn has_nul(&self) -> bool {
        matches!(self, Self::String(text) if text.contains('\0'))
    }
}

impl Serialize for Scalar {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Boolean(boolean) => serializer.serialize_bool(*boolean),
            Self::Number(number) => number.serialize(serializer),
            Self::String(text) => serializer.serialize_str(text),
        }
    }
}

/// The values of a point, in the form in which they are stored.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Values {
    /// A single number called `value` that a double holds exactly: by far the most frequent case.
    Number(f64),
    /// Anything else, by name. Never empty; names are unique.
    Named(Vec<(String, Scalar)>),
}

impl Values {
    /// Values by name in their most compact form, or `None` if there are none.
    pub(crate) fn new(named: Vec<(String, Scalar)>) -> Option<Self> {
        match named.as_slice() {
            [] => None,
            [(name, Scalar::Number(number))] if name == DEFAULT_VALUE_NAME => {
                Some(exact_double(number).map_or_else(|| Self::Named(named), Self::Number))
            }
            _ => Some(Self::Named(named)),
        }
    }

    /// A single number called `value`.
    pub(crate) fn number(number: &Number) -> Self {
        exact_double(number).map_or_else(
            || Self::Named(vec![(DEFAULT_VALUE_NAME.to_owned(), Scalar::Number(number.clone()))]),
            Self::Number,
        )
    }

    /// How many bytes they take as JSON text, roughly.
    pub(crate) fn bytes(&self) -> usize {
        // Quotes, colon, comma; and what a number or a word may take.
        const AROUND: usize = 6;
        const SHORT: usize = 8;
        let value = |scalar: &Scalar| match scalar {
            Scalar::String(text) => text.len(),
            Scalar::Null | Scalar::Boolean(_) | Scalar::Number(_) => SHORT,
        };
        match self {
            Self::Number(_) => SHORT,
            Self::Named(named) => {
                named.iter().map(|(name, scalar)| name.len() + value(scalar) + AROUND).sum()
            }
        }
    }

    /// A single text called `value`.
    pub(crate) fn text(text: String) -> Self {
        Self::Named(vec![(DEFAULT_VALUE_NAME.to_owned(), Scalar::String(text))])
    }
}

/// As a JSON object, value name to value.
impl Serialize for Values {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Self::Number(number) => map.serialize_entry(DEFAULT_VALUE_NAME, number)?,
            Self::Named(named) => {
                for (name, scalar) in named {
                    map.serialize_entry(name, scalar)?;
                }
            }
        }
        map.end()
    }
}

/// The double that stands for the number without loss. Integers beyond 2^53 (counters, serial numbers) have none and
/// are stored as they were sent.
fn exact_double(number: &Number) -> Option<f64> {
    match number.as_i64() {
        Some(integer) => {
            (integer.unsigned_abs() <= EXACT_INTEGER_MAX.unsigned_abs()).then(|| number.as_f64())?
        }
        None if number.is_u64() => None,
        None => number.as_f64(),
    }
}

/// The JSON number for a stored double: without a fraction where it has none, as it was sent.
pub(crate) fn json_number(double: f64) -> Value {
    let text = double.to_string();
    let integer =
        text.parse::<i64>().ok().filter(|integer| integer.unsigned_abs() <= EXACT_INTEGER_MAX.unsigned_abs());
    match integer {
        Some(integer) => Value::from(integer),
        None => Value::from(double),
    }
}

/// A point of one series; its moment is its sample's.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Point {
    pub(crate) series: TimeSeriesName,
    pub(crate) values: Values,
}

/// Where the moment of a sample comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stamp {
    /// From the device: a resend brings the same one, so the last value wins.
    Device(Micros),
    /// From the platform's [`Clock`](crate::clock::Clock): unique, so it must never meet another point.
    Server(Micros),
}

impl Stamp {
    pub(crate) fn moment(self) -> Micros {
        match self {
            Self::Device(moment) | Self::Server(moment) => moment,
        }
    }
}

/// The points taken from one sample of a device, all at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    pub(crate) stamp: Stamp,
    pub(crate) points: Vec<Point>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Number {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_number_keeps_its_value() {
        assert_eq!(Values::number(&number("21")), Values::Number(21.0));
        assert_eq!(Values::number(&number("-0.1")), Values::Number(-0.1));
        assert_eq!(Values::number(&number("9007199254740992")), Values::Number(9_007_199_254_740_992.0));
        for exact in ["9007199254740993", "-9223372036854775808", "18446744073709551615"] {
            let values = Values::number(&number(exact));
            assert_eq!(serde_json::to_string(&values).unwrap(), format!("{{\"value\":{exact}}}"));
        }
    }

    #[test]
    fn a_stored_double_is_shown_as_it_was_sent() {
        for text in ["21", "0", "-7", "21.5", "0.1", "9007199254740992"] {
            let double: f64 = text.parse().unwrap();
            assert_eq!(json_number(double).to_string(), text);
        }
        assert_eq!(json_number(1e300).as_f64(), Some(1e300));
    }

    #[test]
    fn a_moment_shows_a_fraction_only_where_there_is_one() {
        assert_eq!(Micros::new(1_556_293_267_000_000).unwrap().to_string(), "2019-04-26T15:41:07Z");
        assert_eq!(Micros::new(1_556_293_267_120_000).unwrap().to_string(), "2019-04-26T15:41:07.120Z");
        assert_eq!(Micros::new(1_556_293_267_000_001).unwrap().to_string(), "2019-04-26T15:41:07.000001Z");
    }

    #[test]
    fn only_one_number_called_value_is_compact() {
        let one = |name: &str, scalar| Values::new(vec![(name.to_owned(), scalar)]).unwrap();
        assert_eq!(one("value", Scalar::Number(number("1"))), Values::Number(1.0));
        assert!(matches!(one("value", Scalar::Null), Values::Named(_)));
        assert!(matches!(one("lat", Scalar::Number(number("1"))), Values::Named(_)));
        assert_eq!(Values::new(vec![]), None);
    }
}
