//! JSON trees whose keys may join several parts of a path by dots.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// What a tree holds below a path.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Found {
    /// `null` at the path or on the way to it.
    Cleared,
    /// The entries there; none when the path leads nowhere.
    Entries(BTreeMap<String, Value>),
}

/// The entries below a path. A key may hold several parts of the path, and beyond it the parts of an entry:
/// `{"a.b.c.d": 1}` has below `a.b` the entry `c`, which is `{"d": 1}`. None when something stands beside the
/// path or an entry is there twice.
pub(super) fn below(tree: Value, path: &[&str]) -> Option<Found> {
    let mut entries = BTreeMap::new();
    let cleared = gather(tree, path, &mut entries)?;
    match (cleared, entries.is_empty()) {
        (true, true) => Some(Found::Cleared),
        (true, false) => None,
        (false, _) => Some(Found::Entries(entries)),
    }
}

/// Whether there was a `null` on the way.
fn gather(tree: Value, path: &[&str], entries: &mut BTreeMap<String, Value>) -> Option<bool> {
    let object = match tree {
        Value::Null => return Some(true),
        Value::Object(object) => object,
        _ => return None,
    };
    let mut cleared = false;
    for (key, inner) in object {
        let parts: Vec<&str> = key.split('.').collect();
        let common = parts.len().min(path.len());
        if parts[..common] != path[..common] {
            return None;
        }
        if let Some((name, rest)) = parts[common..].split_first() {
            let inner = rest
                .iter()
                .rev()
                .fold(inner, |inner, part| Value::Object(Map::from_iter([((*part).to_owned(), inner)])));
            if entries.insert((*name).to_owned(), inner).is_some() {
                return None;
            }
        } else {
            cleared |= gather(inner, &path[common..], entries)?;
        }
    }
    Some(cleared)
}

/// Levels of a tree when all its keys are taken apart at their dots.
pub(super) fn depth(tree: &Value) -> usize {
    let deepest = |inner: &mut dyn Iterator<Item = usize>| inner.max().unwrap_or(0);
    match tree {
        Value::Object(object) => {
            deepest(&mut object.iter().map(|(key, inner)| key.split('.').count() + depth(inner)))
        }
        Value::Array(items) => deepest(&mut items.iter().map(|item| 1 + depth(item))),
        _ => 0,
    }
}

/// JSON merge patch (RFC 7396).
pub(super) fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(&key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entries(tree: Value) -> Option<Value> {
        match below(tree, &["a", "b"])? {
            Found::Cleared => Some(Value::Null),
            Found::Entries(entries) => Some(entries.into_iter().collect()),
        }
    }

    #[test]
    fn keys_are_taken_apart_wherever_they_join() {
        let nested = json!({"c": {"d": 1}});
        for tree in [
            json!({"a": {"b": {"c": {"d": 1}}}}),
            json!({"a.b": {"c": {"d": 1}}}),
            json!({"a.b.c": {"d": 1}}),
            json!({"a.b.c.d": 1}),
            json!({"a": {"b.c.d": 1}}),
        ] {
            assert_eq!(entries(tree.clone()), Some(nested.clone()), "{tree}");
        }
        let two = json!({"a.b.c": 1, "a": {"b": {"d": {"x.y": 2}}}});
        assert_eq!(entries(two), Some(json!({"c": 1, "d": {"x.y": 2}})));
    }

    #[test]
    fn absent_differs_from_cleared() {
        for absent in [json!({}), json!({"a": {}}), json!({"a.b": {}})] {
            assert_eq!(entries(absent.clone()), Some(json!({})), "{absent}");
        }
        for cleared in [json!(null), json!({"a": null}), json!({"a.b": null})] {
            assert_eq!(entries(cleared.clone()), Some(Value::Null), "{cleared}");
        }
    }

    #[test]
    fn what_is_beside_the_path_or_twice_is_refused() {
        for bad in [
            json!(1),
            json!({"a": 1}),
            json!({"x": {}}),
            json!({"a": {"b": {}}, "x": 1}),
            json!({"a.b.c": 1, "a": {"b": {"c": 2}}}),
            json!({"a.b": null, "a": {"b": {"c": 2}}}),
        ] {
            assert_eq!(entries(bad.clone()), None, "{bad}");
        }
    }

    #[test]
    fn each_dot_is_a_level() {
        for (tree, levels) in
            [(json!(1), 0), (json!({}), 0), (json!({"a": {"b": 1}, "c": 1}), 2), (json!({"a.b.c": [[1]]}), 5)]
        {
            assert_eq!(depth(&tree), levels, "{tree}");
        }
    }

    #[test]
    fn a_merge_patch_is_that_of_the_rfc() {
        // The examples of RFC 7396, appendix A.
        for (target, patch, expected) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            let mut merged = target.clone();
            merge(&mut merged, patch.clone());
            assert_eq!(merged, expected, "{target} {patch}");
        }
    }
}
