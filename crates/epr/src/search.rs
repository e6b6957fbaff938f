//! What a list of endpoints is asked for.

use std::fmt;

use chrono::{DateTime, Utc};
use ids::{AppVersionName, ApplicationName, EndpointId, InvalidId};
use regex::RegexBuilder;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::error::Error;
use crate::filters::ActiveFilter;
use crate::metadata::check_key;

/// Endpoint ids in one search.
pub(crate) const ENDPOINT_IDS_MAX: usize = 10_000;
/// Conditions on metadata in one search.
pub(crate) const CONDITIONS_MAX: usize = 32;
/// A text or regular expression to look for, in bytes.
pub(crate) const PATTERN_BYTES_MAX: usize = 256;
/// A value to compare with, in bytes of JSON.
const VALUE_BYTES_MAX: usize = 4_096;
/// What a regular expression may take, in bytes: bounds the repetitions in it.
const REGEX_SIZE_MAX: usize = 64 * 1024;

/// Which endpoints to list. All conditions hold together.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Filter {
    /// None: any.
    pub(crate) applications: Option<Vec<ApplicationName>>,
    pub(crate) version: Option<AppVersionName>,
    /// Empty: any.
    pub(crate) endpoint_ids: Vec<EndpointId>,
    pub(crate) conditions: Vec<Condition>,
    /// Found in the endpoint id or in a metadata value.
    pub(crate) text: Option<Pattern>,
    /// A filter that endpoints match.
    pub(crate) matching: Option<ActiveFilter>,
}

/// Which part of the list, and what of each endpoint.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct View {
    pub(crate) with_metadata: bool,
    pub(crate) with_filters: bool,
    pub(crate) newest_first: bool,
    pub(crate) after: Option<Cursor>,
    pub(crate) offset: i64,
    pub(crate) limit: i64,
}

/// A condition on the value of one metadata key.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Condition {
    pub(crate) key: String,
    pub(crate) test: Test,
}

/// What a metadata value is held against. An endpoint without the key passes only `Differs` and `Exists(false)`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Test {
    Equals(Value),
    /// Equal to one of two: what a text means as JSON, and the text itself.
    EqualsEither(Value, String),
    Differs(Value),
    Exists(bool),
    Matches(Pattern),
    /// With a number or a string; only values of the same type compare.
    Compares(Comparison, Value),
}

/// How values compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

/// A text to be found, or a regular expression. Case does not matter for texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pattern {
    Text(String),
    Regex(String),
}

/// How a metadata value is compared in a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Operator {
    Eq,
    Ne,
    Regex,
    Exists,
    Gt,
    Gte,
    Lt,
    Lte,
}

impl Condition {
    /// A condition as a search has it.
    pub(crate) fn new(key: String, operator: Operator, value: Value) -> Result<Self, Error> {
        check_key(&key)?;
        if value.to_string().len() > VALUE_BYTES_MAX {
            return Err(Error::Refused(format!(
                "the value to compare metadata key {key} with has more than {VALUE_BYTES_MAX} bytes"
            )));
        }
        let compares = |comparison| match &value {
            Value::Number(_) | Value::String(_) => Ok(Test::Compares(comparison, value.clone())),
            _ => Err(Error::Refused(format!(
                "metadata key {key} is greater or less than a number or a string only"
            ))),
        };
        let test = match (operator, &value) {
            (Operator::Eq, _) => Test::Equals(value),
            (Operator::Ne, _) => Test::Differs(value),
            (Operator::Exists, Value::Bool(exists)) => Test::Exists(*exists),
            (Operator::Exists, Value::Null) => Test::Exists(true),
            (Operator::Exists, _) => {
                return Err(Error::Refused(format!(
                    "the value of exists for metadata key {key} must be true or false"
                )));
            }
            (Operator::Regex, Value::String(regex)) => Test::Matches(Pattern::regex(regex)?),
            (Operator::Regex, _) => {
                return Err(Error::Refused(format!(
                    "the regular expression for metadata key {key} must be a string"
                )));
            }
            (Operator::Gt, _) => compares(Comparison::Greater)?,
            (Operator::Gte, _) => compares(Comparison::GreaterOrEqual)?,
            (Operator::Lt, _) => compares(Comparison::Less)?,
            (Operator::Lte, _) => compares(Comparison::LessOrEqual)?,
        };
        Ok(Self { key, test })
    }

    /// Reads `key:value`. The value is a regular expression, or else text or a JSON scalar.
    pub(crate) fn parse(text: &str, regex: bool) -> Result<Self, Error> {
        let (key, value) = text.split_once(':').ok_or_else(|| {
            Error::Refused(format!(
                "metadataFilter must be a metadata key, a colon and a value, as in serial:00-14-22, not {:?}",
                text.chars().take(PATTERN_BYTES_MAX).collect::<String>()
            ))
        })?;
        check_key(key)?;
        if regex {
            return Ok(Self { key: key.to_owned(), test: Test::Matches(Pattern::regex(value)?) });
        }
        if value.len() > VALUE_BYTES_MAX {
            return Err(Error::Refused(format!(
                "the value of metadataFilter has more than {VALUE_BYTES_MAX} bytes"
            )));
        }
        let scalar =
            serde_json::from_str(value).ok().filter(|value: &Value| !value.is_array() && !value.is_object());
        let test = match scalar {
            Some(scalar) => Test::EqualsEither(scalar, value.to_owned()),
            None => Test::Equals(Value::from(value)),
        };
        Ok(Self { key: key.to_owned(), test })
    }
}

impl Pattern {
    pub(crate) fn new(text: &str, regex: bool) -> Result<Self, Error> {
        if regex {
            return Self::regex(text);
        }
        if text.len() > PATTERN_BYTES_MAX || text.contains('\0') {
            return Err(Error::Refused(format!(
                "the text to look for must have {PATTERN_BYTES_MAX} bytes at most, and no NUL"
            )));
        }
        Ok(Self::Text(text.to_owned()))
    }

    /// A regular expression that means the same to PostgreSQL, where it runs, and to a matcher that needs linear time.
    fn regex(text: &str) -> Result<Self, Error> {
        let refused = |reason: &dyn fmt::Display| {
            Err(Error::Refused(format!("the regular expression cannot be used: {reason}")))
        };
        if text.len() > PATTERN_BYTES_MAX || text.contains('\0') {
            return refused(&format_args!("it must have {PATTERN_BYTES_MAX} bytes at most, and no NUL"));
        }
        if let Some(escape) = strange_escape(text) {
            return refused(&format_args!(
                "\\{escape} is not supported; there are \\d \\D \\s \\S \\w \\W \\n \\r \\t and escaped punctuation"
            ));
        }
        if text.contains("(?") {
            return refused(&"groups that begin with (? are not supported");
        }
        match RegexBuilder::new(text).size_limit(REGEX_SIZE_MAX).build() {
            Ok(_) => Ok(Self::Regex(text.to_owned())),
            Err(error) => refused(&error),
        }
    }
}

/// The first escape that PostgreSQL may understand in another way.
fn strange_escape(text: &str) -> Option<char> {
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            continue;
        }
        let escaped = characters.next()?;
        let common = matches!(escaped, 'd' | 'D' | 's' | 'S' | 'w' | 'W' | 'n' | 'r' | 't');
        let punctuation = escaped.is_ascii_punctuation() && !matches!(escaped, '<' | '>');
        if !common && !punctuation {
            return Some(escaped);
        }
    }
    None
}

/// The last endpoint of a page: the next page begins behind it. Opaque to callers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub(crate) struct Cursor {
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) endpoint_id: EndpointId,
}

/// A text that no page gave as its `next`.
#[derive(Debug, thiserror::Error)]
#[error("must be what `next` was in the page before")]
pub(crate) struct InvalidCursor;

impl From<InvalidId> for InvalidCursor {
    fn from(_: InvalidId) -> Self {
        Self
    }
}

impl std::str::FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let (micros, endpoint_id) = text.split_once('.').ok_or(InvalidCursor)?;
        let micros = micros.parse().map_err(|_| InvalidCursor)?;
        let created_at = DateTime::from_timestamp_micros(micros).ok_or(InvalidCursor)?;
        Ok(Self { created_at, endpoint_id: EndpointId::parse(endpoint_id)? })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.created_at.timestamp_micros(), self.endpoint_id)
    }
}

impl From<Cursor> for String {
    fn from(cursor: Cursor) -> Self {
        cursor.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn condition(key: &str, operator: Operator, value: Value) -> Result<Test, String> {
        Condition::new(key.to_owned(), operator, value)
            .map(|condition| condition.test)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn operators_take_the_values_that_they_can_compare_with() {
        assert_eq!(condition("a", Operator::Eq, json!([1])), Ok(Test::Equals(json!([1]))));
        assert_eq!(condition("a", Operator::Exists, Value::Null), Ok(Test::Exists(true)));
        assert_eq!(condition("a", Operator::Lt, json!(1)), Ok(Test::Compares(Comparison::Less, json!(1))));
        for (operator, value) in [
            (Operator::Exists, json!(1)),
            (Operator::Regex, json!(1)),
            (Operator::Gt, json!([])),
            (Operator::Gte, json!(null)),
        ] {
            assert!(condition("a", operator, value).unwrap_err().contains("metadata key a"));
        }
        assert!(condition("a b", Operator::Eq, json!(1)).unwrap_err().contains("a b"));
        assert!(condition("a", Operator::Eq, json!("x".repeat(5_000))).unwrap_err().contains("4096"));
    }

    #[test]
    fn a_filter_in_the_query_is_a_key_and_a_value() {
        let parse = |text: &str, regex| {
            Condition::parse(text, regex).map(|condition| condition.test).map_err(|error| error.to_string())
        };
        assert_eq!(parse("a:x:y", false), Ok(Test::Equals(json!("x:y"))));
        assert_eq!(parse("a:7", false), Ok(Test::EqualsEither(json!(7), "7".to_owned())));
        assert_eq!(parse("a:007", false), Ok(Test::Equals(json!("007"))));
        assert_eq!(parse("a:[1]", false), Ok(Test::Equals(json!("[1]"))));
        assert_eq!(parse("a:^x$", true), Ok(Test::Matches(Pattern::Regex("^x$".to_owned()))));
        assert!(parse("a", false).unwrap_err().contains("colon"));
        assert!(parse("a-b:1", false).unwrap_err().contains("a-b"));
    }

    #[test]
    fn regular_expressions_mean_one_thing_only() {
        for good in ["^[A-Z]{2,3}-\\d+$", "a|b", "\\.x", "[[:alpha:]]", ""] {
            assert!(Pattern::regex(good).is_ok(), "{good}");
        }
        let long = "a".repeat(257);
        for bad in [
            "(",
            "\\b",
            "\\y",
            "\\1",
            "(a)\\1",
            "(?=a)",
            "(?i)a",
            "\\<",
            "((a{1,255}){1,255}){1,255}",
            "a\0",
            &long,
        ] {
            assert!(Pattern::regex(bad).unwrap_err().to_string().contains("regular expression"), "{bad}");
        }
    }

    #[test]
    fn a_cursor_is_read_back() {
        let cursor: Cursor = "1732112345678901.a.b".parse().unwrap();
        assert_eq!(
            (cursor.endpoint_id.as_str(), cursor.to_string().as_str()),
            ("a.b", "1732112345678901.a.b")
        );
        for bad in ["", "1", "x.a", "1.a/b", "99999999999999999999.a"] {
            assert!(bad.parse::<Cursor>().is_err(), "{bad}");
        }
    }
}
