//! Paths into a JSON sample: the part of JSONPath that a configuration needs.
//!
//! `$.location.lat`, `location.lat` (the same), `$.readings[0]`, `$['odd name'].x`, `$` (the sample itself). No
//! wildcards, filters, slices or negative indexes: a path names at most one value.

use std::fmt;

use serde_json::Value;

const PATH_BYTES_MAX: usize = 512;
const STEPS_MAX: usize = 32;

/// A checked path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JsonPath {
    text: String,
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    Index(usize),
}

/// Why a text is not a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JsonPathError {
    #[error("it is empty; `$` names the whole sample")]
    Empty,
    #[error("it is longer than {PATH_BYTES_MAX} bytes")]
    TooLong,
    #[error("it has more than {STEPS_MAX} steps")]
    TooDeep,
    #[error("a name is missing at byte {0}")]
    NameMissing(usize),
    #[error("the bracket at byte {0} holds neither an index nor a quoted name, or is not closed")]
    Bracket(usize),
    #[error("unexpected `{1}` at byte {0}; expected `.` or `[`")]
    Unexpected(usize, char),
}

impl JsonPath {
    pub(crate) fn parse(text: &str) -> Result<Self, JsonPathError> {
        if text.is_empty() {
            return Err(JsonPathError::Empty);
        }
        if text.len() > PATH_BYTES_MAX {
            return Err(JsonPathError::TooLong);
        }
        let mut steps = Vec::new();
        // A path without `$` begins with a name, as if `$.` stood before it.
        let mut rest = match text.strip_prefix('$') {
            Some(rest) => rest,
            None if text.starts_with('[') => text,
            None => name(text, text, &mut steps)?,
        };
        while let Some(first) = rest.chars().next() {
            if steps.len() >= STEPS_MAX {
                return Err(JsonPathError::TooDeep);
            }
            rest = match first {
                '.' => name(text, rest.get(1..).unwrap_or_default(), &mut steps)?,
                '[' => bracket(text, rest, &mut steps)?,
                other => return Err(JsonPathError::Unexpected(at(text, rest), other)),
            };
        }
        Ok(Self { text: text.to_owned(), steps })
    }

    /// The value that the path names, if the sample has it.
    pub(crate) fn find<'a>(&self, sample: &'a Value) -> Option<&'a Value> {
        self.steps.iter().try_fold(sample, |value, step| match step {
            Step::Field(name) => value.as_object()?.get(name),
            Step::Index(index) => value.as_array()?.get(*index),
        })
    }

    /// The name of the top-level field that the path consists of, if it is no more than that.
    pub(crate) fn top_level_field(&self) -> Option<&str> {
        match self.steps.as_slice() {
            [Step::Field(name)] => Some(name),
            _ => None,
        }
    }
}

impl fmt::Display for JsonPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// Where `rest`, an end of `text`, begins.
fn at(text: &str, rest: &str) -> usize {
    text.len() - rest.len()
}

/// Takes a bare name, up to the next `.` or `[`.
fn name<'a>(text: &str, rest: &'a str, steps: &mut Vec<Step>) -> Result<&'a str, JsonPathError> {
    let end = rest.find(['.', '[']).unwrap_or(rest.len());
    let (name, after) = rest.split_at(end);
    if name.is_empty() {
        return Err(JsonPathError::NameMissing(at(text, rest)));
    }
    steps.push(Step::Field(name.to_owned()));
    Ok(after)
}

/// Takes `[n]`, `['name']` or `["name"]`; `\` takes the sign after it as it is.
fn bracket<'a>(text: &str, rest: &'a str, steps: &mut Vec<Step>) -> Result<&'a str, JsonPathError> {
    let fault = || JsonPathError::Bracket(at(text, rest));
    let inner = rest.strip_prefix('[').ok_or_else(fault)?;
    let Some(quote) = inner.chars().next().filter(|first| matches!(first, '\'' | '"')) else {
        let (digits, after) = inner.split_once(']').ok_or_else(fault)?;
        let is_index = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let index = digits.parse().ok().filter(|_| is_index).ok_or_else(fault)?;
        steps.push(Step::Index(index));
        return Ok(after);
    };
    let mut name = String::new();
    let mut characters = inner.char_indices().skip(1);
    while let Some((position, character)) = characters.next() {
        if character == quote {
            let after =
                inner.get(position + 1..).and_then(|after| after.strip_prefix(']')).ok_or_else(fault)?;
            steps.push(Step::Field(name));
            return Ok(after);
        }
        let literal = if character == '\\' { characters.next().ok_or_else(fault)?.1 } else { character };
        name.push(literal);
    }
    Err(fault())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_path_finds_its_value() {
        let sample = json!({"a": {"b": [10, {"c d": 1}]}, "x.y": 2, "it's": 3, "": 4});
        for (path, expected) in [
            ("$", sample.clone()),
            ("a.b[0]", json!(10)),
            ("$.a.b[1]['c d']", json!(1)),
            ("$['x.y']", json!(2)),
            ("['x.y']", json!(2)),
            (r"$['it\'s']", json!(3)),
            (r#"$["it's"]"#, json!(3)),
            ("$['']", json!(4)),
        ] {
            assert_eq!(JsonPath::parse(path).unwrap().find(&sample), Some(&expected), "{path}");
        }
        for absent in ["$.a.c", "$.a[0]", "$.a.b[9]", "$.a.b.c"] {
            assert_eq!(JsonPath::parse(absent).unwrap().find(&sample), None, "{absent}");
        }
    }

    #[test]
    fn a_faulty_path_is_refused_with_the_place() {
        assert_eq!(JsonPath::parse(""), Err(JsonPathError::Empty));
        assert_eq!(JsonPath::parse("$."), Err(JsonPathError::NameMissing(2)));
        assert_eq!(JsonPath::parse("a..b"), Err(JsonPathError::NameMissing(2)));
        assert_eq!(JsonPath::parse("$a"), Err(JsonPathError::Unexpected(1, 'a')));
        for bracket in
            ["$[*]", "$[-1]", "$[1", "$['a'", "$['a]", "$[]", "$[+1]", "$[99999999999999999999]", r"$['a\"]
        {
            assert_eq!(JsonPath::parse(bracket), Err(JsonPathError::Bracket(1)), "{bracket}");
        }
        assert_eq!(JsonPath::parse(&"a".repeat(513)), Err(JsonPathError::TooLong));
        assert_eq!(JsonPath::parse(&format!("a{}", ".a".repeat(40))), Err(JsonPathError::TooDeep));
    }

    proptest! {
        #[test]
        fn any_text_parses_or_fails(text in "\\PC{0,60}") {
            if let Ok(path) = JsonPath::parse(&text) {
                path.find(&json!({"a": [1, {"b": 2}]}));
            }
        }

        #[test]
        fn a_quoted_name_finds_any_field(name in "\\PC{0,30}") {
            let quoted = name.replace('\\', r"\\").replace('\'', r"\'");
            let path = JsonPath::parse(&format!("$['{quoted}']")).unwrap();
            let sample = json!({ name: 7 });
            prop_assert_eq!(path.find(&sample), Some(&json!(7)));
        }
    }
}
