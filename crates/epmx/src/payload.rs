//! What devices send (10/EPMP; the schemas are in `proto-schemas/json/epmp`), read strictly, with answers that name the
//! key and the rule.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use extension::Refusal;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Values by key. They stay as they were written: no number loses a digit on its way.
pub(crate) type Values = BTreeMap<String, Box<RawValue>>;

/// Characters of a key that an answer repeats.
const SHOWN_CHARS_MAX: usize = 64;

/// A key as an answer shows it.
pub(crate) fn shown(key: &str) -> String {
    if key.chars().count() <= SHOWN_CHARS_MAX {
        return format!("{key:?}");
    }
    format!("{:?}...", key.chars().take(SHOWN_CHARS_MAX).collect::<String>())
}

/// The keys that `/get` asks for; none: all.
pub(crate) fn get_request(payload: &[u8]) -> Result<Vec<String>, Refusal> {
    let text = text(payload)?;
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let Object(fields) = parse(text, r#"{} or {"keys": ["name", ...]}"#)?;
    if let Some(other) = fields.keys().find(|field| *field != "keys") {
        return Err(Refusal::bad_request(format!(
            r#"unknown field {}: only "keys" may be there"#,
            shown(other)
        )));
    }
    match fields.get("keys") {
        None => Ok(Vec::new()),
        Some(keys) => {
            let keys: Vec<String> = parse(keys.get(), r#"an array of metadata keys in the field "keys""#)?;
            check_keys(&keys)?;
            Ok(keys)
        }
    }
}

/// The values that `/update` and `/update/keys` bring.
pub(crate) fn update_request(payload: &[u8]) -> Result<Values, Refusal> {
    const EXPECTED: &str = r#"an object of metadata keys and values, such as {"name": "Sensor 1"}"#;
    let Object(values) = parse(not_empty(text(payload)?, EXPECTED)?, EXPECTED)?;
    if values.is_empty() {
        return Err(Refusal::bad_request("the object is empty: send one metadata key at least"));
    }
    values.keys().try_for_each(|key| check_key(key))?;
    Ok(values)
}

/// The keys that `/delete/keys` names.
pub(crate) fn delete_request(payload: &[u8]) -> Result<Vec<String>, Refusal> {
    const EXPECTED: &str = r#"an array of metadata keys, such as ["location", "areaId"]"#;
    let keys: Vec<String> = parse(not_empty(text(payload)?, EXPECTED)?, EXPECTED)?;
    if keys.is_empty() {
        return Err(Refusal::bad_request("the array is empty: name one metadata key at least"));
    }
    check_keys(&keys)?;
    Ok(keys)
}

fn text(payload: &[u8]) -> Result<&str, Refusal> {
    let text = std::str::from_utf8(payload).map_err(|error| {
        Refusal::bad_request(format!("the payload is not UTF-8 at byte {}", error.valid_up_to()))
    })?;
    Ok(text.trim_matches([' ', '\t', '\n', '\r']))
}

fn not_empty<'a>(text: &'a str, expected: &str) -> Result<&'a str, Refusal> {
    if text.is_empty() {
        return Err(Refusal::bad_request(format!("the payload is empty: send {expected}")));
    }
    Ok(text)
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str, expected: &str) -> Result<T, Refusal> {
    serde_json::from_str(text)
        .map_err(|error| Refusal::bad_request(format!("the payload must be {expected}: {error}")))
}

fn check_keys(keys: &[String]) -> Result<(), Refusal> {
    let mut seen = HashSet::with_capacity(keys.len());
    for key in keys {
        check_key(key)?;
        if !seen.insert(key) {
            return Err(Refusal::bad_request(format!("metadata key {} is named twice", shown(key))));
        }
    }
    Ok(())
}

fn check_key(key: &str) -> Result<(), Refusal> {
    if !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Ok(());
    }
    let rule = "a key is one or more characters out of A-Z a-z 0-9 _";
    Err(Refusal::bad_request(format!("{} is no metadata key: {rule}", shown(key))))
}

/// A JSON object that names nothing twice: which of two values is meant nobody knows.
struct Object(Values);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Values;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Values, A::Error> {
                let mut values = Values::new();
                while let Some((key, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    if values.contains_key(&key) {
                        return Err(A::Error::custom(format_args!("{} is named twice", shown(&key))));
                    }
                    values.insert(key, value);
                }
                Ok(values)
            }
        }

        deserializer.deserialize_map(Fields).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    /// The examples of a schema: (whether it is valid, the text).
    fn examples(name: &str) -> Vec<(bool, String)> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto-schemas/json/epmp");
        let text = std::fs::read_to_string(format!("{folder}/{name}.examples.json")).unwrap();
        let examples: Value = serde_json::from_str(&text).unwrap();
        let of = |kind: &str| examples[kind].as_array().unwrap().clone();
        let valid = of("valid").into_iter().map(|example| (true, example.to_string()));
        valid.chain(of("invalid").into_iter().map(|example| (false, example.to_string()))).collect()
    }

    #[test]
    fn what_the_schemas_take_is_taken_and_nothing_else() {
        for (valid, text) in examples("get-metadata-request") {
            assert_eq!(get_request(text.as_bytes()).is_ok(), valid, "{text}");
        }
        for (valid, text) in examples("update-metadata-request") {
            assert_eq!(update_request(text.as_bytes()).is_ok(), valid, "{text}");
        }
        for (valid, text) in examples("delete-metadata-keys-request") {
            assert_eq!(delete_request(text.as_bytes()).is_ok(), valid, "{text}");
        }
    }

    #[test]
    fn all_metadata_are_asked_for_in_many_ways() {
        for all in ["", " \n", "{}", r#"{"keys": []}"#] {
            assert_eq!(get_request(all.as_bytes()).unwrap(), Vec::<String>::new(), "{all:?}");
        }
        assert_eq!(get_request(br#"{"keys": ["name", "location"]}"#).unwrap(), ["name", "location"]);
    }

    #[test]
    fn a_refusal_names_the_key_and_the_rule() {
        let reason = |refusal: Refusal| {
            assert_eq!(refusal.status_code, 400);
            refusal.reason_phrase
        };
        let get = |text: &str| reason(get_request(text.as_bytes()).unwrap_err());
        assert!(get(r#"{"key": []}"#).contains(r#"unknown field "key""#));
        assert!(get(r#"{"keys": ["a b"]}"#).contains(r#""a b" is no metadata key"#));
        assert!(get(r#"{"keys": ["a", "a"]}"#).contains(r#""a" is named twice"#));
        assert!(get(r#"{"keys": ["a"], "keys": []}"#).contains("named twice"));
        assert!(get(r#"{"keys": [1]}"#).contains("expected a string"));
        assert!(get(r#"["a"]"#).contains("expected a JSON object"));
        assert!(get("{").contains("line 1 column"));
        let update = |text: &str| reason(update_request(text.as_bytes()).unwrap_err());
        assert!(update("").contains("the payload is empty"));
        assert!(update("{}").contains("one metadata key at least"));
        assert!(update(r#"{"": 1}"#).contains(r#""" is no metadata key"#));
        assert!(update(r#"{"a": 1, "a": 2}"#).contains(r#""a" is named twice"#));
        assert!(update(&format!(r#"{{"{}-": 1}}"#, "x".repeat(500))).len() < 200);
        let delete = |text: &str| reason(delete_request(text.as_bytes()).unwrap_err());
        assert!(delete("[]").contains("one metadata key at least"));
        assert!(delete(r#"["a", "a"]"#).contains(r#""a" is named twice"#));
        assert!(reason(delete_request(b"[\"\xff\"]").unwrap_err()).contains("not UTF-8 at byte 2"));
    }

    #[test]
    fn values_stay_as_they_were_written() {
        let values =
            update_request(br#"{"a": 123456789012345678901234567890.10, "b": {"x" : [1]}}"#).unwrap();
        assert_eq!(values["a"].get(), "123456789012345678901234567890.10");
        assert_eq!(values["b"].get(), r#"{"x" : [1]}"#);
    }

    proptest! {
        #[test]
        fn never_panics(payload in proptest::collection::vec(any::<u8>(), 0..64), text in r#"[\[\]{}":,a-c\\ 0-9]{0,40}"#) {
            for payload in [payload.as_slice(), text.as_bytes()] {
                drop((get_request(payload), update_request(payload), delete_request(payload)));
            }
        }
    }
}
