//! Metadata: what may be stored, how it is changed, and what a change did.

mod edit;
mod patch;

use std::io::Write as _;

use serde_json::{Map, Number, Value};

pub(crate) use edit::{Difference, Edit};
pub(crate) use patch::PatchError;

/// The longest metadata key, in bytes.
pub(crate) const KEY_BYTES_MAX: usize = 128;
/// Levels of objects and arrays within each other, the metadata itself included. Whatever is stored can thereby be
/// read again, by parsers that count levels too.
pub(crate) const DEPTH_MAX: usize = 64;

/// A JSON object: values by key.
pub(crate) type Metadata = Map<String, Value>;

/// How much metadata an endpoint may have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) keys_max: usize,
    pub(crate) bytes_max: usize,
}

/// Metadata that cannot be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Invalid {
    #[error("metadata key {0:?} must be 1 to {KEY_BYTES_MAX} characters out of A-Z a-z 0-9 _")]
    Key(String),
    #[error("the metadata have {keys} keys, more than the {max} allowed (epr.metadata_keys_max)")]
    Keys { keys: usize, max: usize },
    #[error("the metadata have {bytes} bytes, more than the {max} allowed (epr.metadata_bytes_max)")]
    Bytes { bytes: usize, max: usize },
    #[error("the metadata have more than {DEPTH_MAX} levels")]
    Depth,
    #[error("the value of metadata key {0:?} holds a NUL character, which cannot be stored")]
    Nul(String),
}

/// Whether a text may be a metadata key.
pub(crate) fn check_key(key: &str) -> Result<(), Invalid> {
    let valid = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if key.is_empty() || key.len() > KEY_BYTES_MAX || !valid {
        // Long keys are cut: the message goes back to the caller and into logs.
        return Err(Invalid::Key(key.chars().take(KEY_BYTES_MAX).collect()));
    }
    Ok(())
}

/// Checks metadata against the rule of keys and the limits.
pub(crate) fn check(metadata: &Metadata, limits: Limits) -> Result<(), Invalid> {
    if metadata.len() > limits.keys_max {
        return Err(Invalid::Keys { keys: metadata.len(), max: limits.keys_max });
    }
    let mut bytes = 0;
    for (key, value) in metadata {
        check_key(key)?;
        let measure = measure(value, limits.bytes_max)?;
        if measure.nul {
            return Err(Invalid::Nul(key.clone()));
        }
        bytes += measure.bytes;
        check_bytes(bytes, limits.bytes_max)?;
    }
    let mut counter = Counter(0);
    // A map of values with string keys always serialises, and the counter takes all.
    if serde_json::to_writer(&mut counter, metadata).is_err() || counter.0 > limits.bytes_max {
        return Err(Invalid::Bytes { bytes: counter.0, max: limits.bytes_max });
    }
    Ok(())
}

fn check_bytes(bytes: usize, max: usize) -> Result<(), Invalid> {
    if bytes > max { Err(Invalid::Bytes { bytes, max }) } else { Ok(()) }
}

/// Whether a value stays so small that it can be worked on further, as far as can be told cheaply.
fn check_bounds(value: &Value, bytes_max: usize) -> Result<(), Invalid> {
    measure(value, bytes_max).map(|_| ())
}

struct Measure {
    bytes: usize,
    nul: bool,
}

/// Walks a value without recursion, because it may be deep, and stops at the first limit. The bytes are never more than
/// those of the JSON text that the database makes of it, which writes out 1e300 in 301 digits.
fn measure(value: &Value, bytes_max: usize) -> Result<Measure, Invalid> {
    let mut measure = Measure { bytes: 0, nul: false };
    // The metadata itself is the first level.
    let mut open = vec![(value, 1_usize)];
    while let Some((value, depth)) = open.pop() {
        measure.bytes += 1;
        match value {
            Value::Array(_) | Value::Object(_) if depth >= DEPTH_MAX => return Err(Invalid::Depth),
            Value::Array(items) => open.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(map) => {
                for (key, value) in map {
                    measure.text(key);
                    open.push((value, depth + 1));
                }
            }
            // PostgreSQL's jsonb cannot hold NUL in strings.
            Value::String(text) => measure.text(text),
            Value::Number(number) => measure.number(number),
            Value::Null | Value::Bool(_) => {}
        }
        check_bytes(measure.bytes, bytes_max)?;
    }
    Ok(measure)
}

impl Measure {
    fn text(&mut self, text: &str) {
        self.bytes += text.len();
        self.nul |= text.contains('\0');
    }

    fn number(&mut self, number: &Number) {
        if let Some(float) = number.as_f64().filter(|_| number.is_f64()) {
            let mut digits = Counter(0);
            // Counting does not fail.
            let _ = write!(digits, "{float}");
            // One is counted already.
            self.bytes += digits.0.saturating_sub(1);
        }
    }
}

/// Counts what is written to it.
struct Counter(usize);

impl std::io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const LIMITS: Limits = Limits { keys_max: 3, bytes_max: 60 };

    fn object(metadata: Value) -> Metadata {
        let Value::Object(metadata) = metadata else { panic!("not an object") };
        metadata
    }

    #[test]
    fn metadata_keep_to_rules_and_limits() {
        let check = |metadata: Value| check(&object(metadata), LIMITS);
        assert_eq!(check(json!({"Serial_1": "x", "nested": {"any key": [1, null]}})), Ok(()));
        assert_eq!(check(json!({"a b": 1})), Err(Invalid::Key("a b".to_owned())));
        assert_eq!(check(json!({"": 1})), Err(Invalid::Key(String::new())));
        assert_eq!(check(json!({"a": ["\0"]})), Err(Invalid::Nul("a".to_owned())));
        assert_eq!(check(json!({"a": {"\0": 1}})), Err(Invalid::Nul("a".to_owned())));
        assert_eq!(check(json!({"a": 1, "b": 1, "c": 1, "d": 1})), Err(Invalid::Keys { keys: 4, max: 3 }));
        assert_eq!(check(json!({"a": "x".repeat(59)})), Err(Invalid::Bytes { bytes: 67, max: 60 }));
        assert!(matches!(check(json!({"a": "x".repeat(900)})), Err(Invalid::Bytes { .. })));
        // As text in the database these are long, alone or together.
        assert!(matches!(check(json!({"a": 1e300})), Err(Invalid::Bytes { .. })));
        assert!(matches!(check(json!({"a": 1e-40, "b": 1e40})), Err(Invalid::Bytes { .. })));
        assert_eq!(check(json!({"a": 1e-40})), Ok(()));
    }

    #[test]
    fn the_depth_is_counted_without_recursion() {
        let nested = |levels: usize| (1..levels).fold(json!([]), |inner, _| json!([inner]));
        let check = |levels| {
            let wide = Limits { bytes_max: 10_000, ..LIMITS };
            check(&object(json!({"a": nested(levels)})), wide)
        };
        assert_eq!(check(DEPTH_MAX - 1), Ok(()));
        assert_eq!(check(DEPTH_MAX), Err(Invalid::Depth));
    }
}
