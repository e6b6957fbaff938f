//! One change of metadata, and what it did.

use std::collections::BTreeMap;

use ism::eme::MetadataKeyUpdatedDto;
use json_patch::PatchOperation;
use serde_json::Value;

use super::patch::{self, PatchError};
use super::{Limits, Metadata, check, check_key};
use crate::filters::equal;

/// A change of an endpoint's metadata.
#[derive(Debug, Clone)]
pub(crate) enum Edit {
    /// These instead of all that there are.
    Replace(Metadata),
    /// A JSON Patch.
    Patch(Vec<PatchOperation>),
    /// Values of keys; the other keys stay.
    Set(Metadata),
    /// A key goes; it may be gone already.
    Remove(String),
}

impl Edit {
    /// A JSON Patch, from the items of its array.
    pub(crate) fn patch(operations: Vec<Value>) -> Result<Self, PatchError> {
        patch::parse(operations).map(Self::Patch)
    }

    /// The value of one key.
    pub(crate) fn set(key: String, value: Value) -> Self {
        Self::Set(Metadata::from_iter([(key, value)]))
    }

    /// The metadata after the change, within the limits.
    pub(crate) fn apply(self, metadata: &Metadata, limits: Limits) -> Result<Metadata, PatchError> {
        let after = match self {
            Self::Replace(after) => after,
            Self::Patch(patch) => patch::apply(metadata, &patch, limits)?,
            Self::Set(values) => {
                let mut after = metadata.clone();
                after.extend(values);
                after
            }
            Self::Remove(key) => {
                check_key(&key)?;
                let mut after = metadata.clone();
                after.remove(&key);
                after
            }
        };
        check(&after, limits)?;
        Ok(after)
    }
}

/// What a change did, as 15/EME has it. Values are JSON texts, and none is JSON null.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Difference {
    pub(crate) removed: BTreeMap<String, Option<String>>,
    pub(crate) added: BTreeMap<String, Option<String>>,
    pub(crate) updated: BTreeMap<String, MetadataKeyUpdatedDto>,
}

impl Difference {
    pub(crate) fn between(before: &Metadata, after: &Metadata) -> Self {
        let mut difference = Self::default();
        for (key, old) in before {
            match after.get(key) {
                None => drop(difference.removed.insert(key.clone(), text(old))),
                // As the database compares them: 1 is 1.0.
                Some(new) if !equal(new, old) => {
                    let values = MetadataKeyUpdatedDto { new_value: text(new), old_value: text(old) };
                    difference.updated.insert(key.clone(), values);
                }
                Some(_) => {}
            }
        }
        let added = after.iter().filter(|(key, _)| !before.contains_key(*key));
        difference.added = added.map(|(key, value)| (key.clone(), text(value))).collect();
        difference
    }
}

fn text(value: &Value) -> Option<String> {
    if value.is_null() { None } else { Some(value.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const LIMITS: Limits = Limits { keys_max: 2, bytes_max: 1_000 };

    fn object(metadata: Value) -> Metadata {
        let Value::Object(metadata) = metadata else { panic!("not an object") };
        metadata
    }

    #[test]
    fn each_change_does_what_it_says_within_the_limits() {
        let before = object(json!({"a": 1, "b": null}));
        let after =
            |edit: Edit| edit.apply(&before, LIMITS).map(Value::Object).map_err(|error| error.to_string());
        assert_eq!(after(Edit::Replace(object(json!({"c": 1})))), Ok(json!({"c": 1})));
        assert_eq!(after(Edit::set("a".to_owned(), json!([]))), Ok(json!({"a": [], "b": null})));
        assert_eq!(after(Edit::Remove("b".to_owned())), Ok(json!({"a": 1})));
        assert_eq!(after(Edit::Remove("z".to_owned())), Ok(json!({"a": 1, "b": null})));
        assert!(after(Edit::set("c".to_owned(), json!(1))).unwrap_err().contains("epr.metadata_keys_max"));
        assert!(after(Edit::Remove("a b".to_owned())).unwrap_err().contains("a b"));
    }

    #[test]
    fn a_difference_names_each_key_once_with_its_values() {
        let before = object(json!({"a": 1, "b": null, "c": {"x": 1}, "e": 1, "f": null}));
        let after = object(json!({"b": null, "c": {"x": 2}, "d": null, "e": 1.0, "f": "null"}));
        let difference = Difference::between(&before, &after);
        assert_eq!(difference.removed, BTreeMap::from([("a".to_owned(), Some("1".to_owned()))]));
        assert_eq!(difference.added, BTreeMap::from([("d".to_owned(), None)]));
        let values = MetadataKeyUpdatedDto {
            new_value: Some("{\"x\":2}".to_owned()),
            old_value: Some("{\"x\":1}".to_owned()),
        };
        let from_null = MetadataKeyUpdatedDto { new_value: Some("\"null\"".to_owned()), old_value: None };
        let updated = BTreeMap::from([("c".to_owned(), values), ("f".to_owned(), from_null)]);
        assert_eq!(difference.updated, updated);
        assert_eq!(Difference::between(&after, &after), Difference::default());
    }
}
