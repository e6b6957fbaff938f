//! JSON read without tolerance: what a tolerant reader would drop in silence changes what a query means.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::query::{QUERY_DEPTH_MAX, QUERY_NODES_MAX};

/// Reads a JSON text. Refused besides what is no JSON: a name that stands twice in one object, NUL characters (no metadata hold
/// them), more depth or more values than a query may have.
pub(super) fn read(text: &str) -> Result<Value, serde_json::Error> {
    let nodes = Cell::new(0);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Strict { depth: 0, nodes: &nodes }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

#[derive(Clone, Copy)]
struct Strict<'a> {
    depth: usize,
    nodes: &'a Cell<usize>,
}

impl Strict<'_> {
    /// For what stands inside an array or object.
    fn inside<E: Error>(self) -> Result<Self, E> {
        let depth = self.depth + 1;
        if depth > QUERY_DEPTH_MAX {
            return Err(E::custom(format!("it is nested deeper than {QUERY_DEPTH_MAX} levels")));
        }
        Ok(Self { depth, nodes: self.nodes })
    }
}

fn text<E: Error>(text: &str) -> Result<String, E> {
    if text.contains('\0') {
        return Err(E::custom("it holds a NUL character, which no metadata can hold"));
    }
    Ok(text.to_owned())
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let nodes = self.nodes.get() + 1;
        if nodes > QUERY_NODES_MAX {
            return Err(D::Error::custom(format!("it has more than {QUERY_NODES_MAX} values")));
        }
        self.nodes.set(nodes);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("it holds a number out of range"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        text(value).map(Value::String)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inside = self.inside()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(inside)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let inside = self.inside()?;
        let mut object = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            let name = text(&name)?;
            let value = entries.next_value_seed(inside)?;
            if object.contains_key(&name) {
                return Err(A::Error::custom(format!(
                    "{name:?} stands twice in one object, of which one would be lost: combine them with $and"
                )));
            }
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_what_serde_json_reads() {
        let json = r#" {"a": [1, -2, 1.5, 18446744073709551615, 1e300, "é\n", true, null, {}, []], "b": {"c": {}}} "#;
        assert_eq!(read(json).unwrap(), serde_json::from_str::<Value>(json).unwrap());
    }

    #[test]
    fn what_would_be_lost_or_unbounded_is_refused() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(read(&nested(QUERY_DEPTH_MAX)).is_ok());
        let items = |count: usize| format!("[{}]", vec!["1"; count].join(","));
        assert!(read(&items(QUERY_NODES_MAX - 1)).is_ok());
        for (json, word) in [
            (r#"{"a": 1, "b": 2, "a": 1}"#, "\"a\" stands twice"),
            (r#"{"a": "\u0000"}"#, "NUL"),
            (r#"{"\u0000": 1}"#, "NUL"),
            ("{} {}", "trailing"),
            ("", "EOF"),
            (&nested(QUERY_DEPTH_MAX + 1), "16 levels"),
            (&items(QUERY_NODES_MAX), "256 values"),
        ] {
            let message = read(json).unwrap_err().to_string();
            assert!(message.contains(word), "{json}: {message}");
        }
    }
}
