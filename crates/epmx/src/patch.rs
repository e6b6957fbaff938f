//! Changes of metadata as JSON Patch (RFC 6902). Metadata keys need no escapes in a JSON Pointer.

use std::collections::BTreeMap;

use extension::Refusal;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::Patch;
use crate::payload::Values;

#[derive(Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum Operation<'a> {
    /// Adds the key, or replaces its value.
    Add {
        path: String,
        value: &'a RawValue,
    },
    Remove {
        path: String,
    },
    Replace {
        path: &'static str,
        value: BTreeMap<&'a String, &'a RawValue>,
    },
}

/// Sets these values.
pub(crate) fn add(values: &Values) -> Result<Patch, Refusal> {
    let operations = values.iter().map(|(key, value)| Operation::Add { path: format!("/{key}"), value });
    write(&operations.collect::<Vec<_>>())
}

/// Removes these keys; they must be there.
pub(crate) fn remove(keys: &[&String]) -> Result<Patch, Refusal> {
    let operations = keys.iter().map(|key| Operation::Remove { path: format!("/{key}") });
    write(&operations.collect::<Vec<_>>())
}

/// Puts these values in place of all metadata.
pub(crate) fn replace_all<'a>(
    values: impl Iterator<Item = (&'a String, &'a Box<RawValue>)>,
) -> Result<Patch, Refusal> {
    write(&[Operation::Replace { path: "", value: values.map(|(key, value)| (key, &**value)).collect() }])
}

fn write(operations: &[Operation<'_>]) -> Result<Patch, Refusal> {
    let patch = serde_json::to_vec(operations);
    patch
        .map(Patch::from)
        .map_err(|error| Refusal::new(500, format!("the change cannot be written: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_are_what_rfc_6902_says() {
        let values = crate::payload::update_request(br#"{"b": 1e2, "a": null}"#).unwrap();
        let text = |patch: Result<Patch, Refusal>| String::from_utf8(patch.unwrap().to_vec()).unwrap();
        assert_eq!(
            text(add(&values)),
            r#"[{"op":"add","path":"/a","value":null},{"op":"add","path":"/b","value":1e2}]"#
        );
        assert_eq!(text(remove(&[&"a".to_owned()])), r#"[{"op":"remove","path":"/a"}]"#);
        assert_eq!(
            text(replace_all(values.iter())),
            r#"[{"op":"replace","path":"","value":{"a":null,"b":1e2}}]"#
        );
    }
}
