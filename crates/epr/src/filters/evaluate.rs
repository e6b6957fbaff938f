//! Evaluates queries in memory.

use std::cmp::Ordering;

use serde_json::{Map, Value};

use super::compare::{equal, order};
use super::query::{Condition, EntryCondition, Logic, Query, Test, Type};

impl Query {
    /// Whether an endpoint matches.
    pub(crate) fn matches(&self, app_version: &str, metadata: &Map<String, Value>) -> bool {
        self.holds(&|condition| match condition {
            Condition::AppVersion(test) => test.passes_text(app_version),
            Condition::Metadata(entry) => entry.some_entry(metadata),
        })
    }
}

impl Logic<EntryCondition> {
    fn some_entry(&self, metadata: &Map<String, Value>) -> bool {
        match self.keys() {
            Some(keys) => keys
                .into_iter()
                .any(|key| metadata.get(key).is_some_and(|value| self.entry_passes(key, value))),
            None => metadata.iter().any(|(key, value)| self.entry_passes(key, value)),
        }
    }

    fn entry_passes(&self, key: &str, value: &Value) -> bool {
        self.holds(&|condition| match condition {
            EntryCondition::Key(test) => test.passes_text(key),
            EntryCondition::Value(path, test) => test.passes(value, &path.0),
        })
    }
}

impl Test {
    /// Whether what is found at a path passes.
    fn passes(&self, value: &Value, path: &[String]) -> bool {
        let found_passes = |found: &Value| match found {
            Value::Array(items) if !matches!(self, Self::Exists) => {
                self.passes_alone(found) || items.iter().any(|item| self.passes_alone(item))
            }
            _ => self.passes_alone(found),
        };
        if any_at(value, path, &found_passes) {
            return true;
        }
        match self {
            Self::In(values) => values.contains(&Value::Null) && !any_at(value, path, &|_| true),
            _ => false,
        }
    }

    fn passes_alone(&self, value: &Value) -> bool {
        match (self, value) {
            (_, Value::String(text)) => self.passes_text(text),
            (Self::In(values), _) => values.iter().any(|wanted| equal(wanted, value)),
            (Self::Compare(comparison, than), _) => {
                order(value, than).is_some_and(|ordering| comparison.admits(ordering))
            }
            (Self::Exists, _) => true,
            (Self::OfType(wanted), _) => Type::of(value) == *wanted,
            (Self::Matches(_), _) => false,
        }
    }

    fn passes_text(&self, text: &str) -> bool {
        match self {
            Self::In(values) => values.iter().any(|wanted| wanted.as_str() == Some(text)),
            Self::Compare(comparison, than) => {
                let ordering: Option<Ordering> = than.as_str().map(|than| text.cmp(than));
                ordering.is_some_and(|ordering| comparison.admits(ordering))
            }
            Self::Exists => true,
            Self::OfType(wanted) => *wanted == Type::String,
            Self::Matches(regex) => regex.is_match(text),
        }
    }
}

/// Whether some value at the path passes. The path leads through objects, and through the objects in an array, but not
/// through arrays in arrays.
fn any_at(value: &Value, path: &[String], passes: &impl Fn(&Value) -> bool) -> bool {
    let Some((name, rest)) = path.split_first() else { return passes(value) };
    let through = |value: &Value| value.get(name).is_some_and(|value| any_at(value, rest, passes));
    match value {
        Value::Array(items) => items.iter().any(through),
        _ => through(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Against an endpoint of version `app-v1` with one metadata key, `m`.
    fn value_matches(condition: &Value, value: &Value) -> bool {
        matches(&json!({"metadata": {"$elemMatch": {"key": "m", "value": condition}}}), &json!({"m": value}))
    }

    fn matches(query: &Value, metadata: &Value) -> bool {
        let query = Query::parse(&query.to_string()).unwrap_or_else(|error| panic!("{query}: {error}"));
        query.matches("app-v1", metadata.as_object().unwrap())
    }

    #[test]
    fn values_are_tested_as_mongodb_tests_them() {
        for (condition, matching, other) in [
            (json!(5), json!([5, 5.0, [1, 5]]), json!([4, "5", [[5]], null, {"a": 5}])),
            (json!("Kyiv"), json!(["Kyiv", ["Kyiv"]]), json!(["kyiv", "Kyiv "])),
            (json!(null), json!([null, [null]]), json!([0, false, "", []])),
            (json!([1, 2]), json!([[1, 2], [[1, 2], 3]]), json!([[2, 1], 1])),
            (json!({"a": 1}), json!([{"a": 1}, [{"a": 1.0}]]), json!([{"a": 1, "b": 2}, {}])),
            (json!({"$eq": true}), json!([true, [true]]), json!([false, 1, "true"])),
            (json!({"$ne": 5}), json!([4, "5", null, [4]]), json!([5, [5, 6]])),
            (json!({"$gt": 5}), json!([6, 5.1, [1, 9]]), json!([5, "6", true, null, [1], {}])),
            (json!({"$gte": "b"}), json!(["b", "c", "é"]), json!(["a", "B", 5])),
            (json!({"$lt": 5, "$gte": 1}), json!([1, 4.9, [0, 9]]), json!([0, 5])),
            (json!({"$lte": false}), json!([false]), json!([true, 0, null])),
            (json!({"$in": [1, "a", null]}), json!([1, "a", null, ["a"]]), json!([2, "b"])),
            (json!({"$in": []}), json!([]), json!([1, null, []])),
            (json!({"$nin": [1, "a"]}), json!([2, null, []]), json!([1, "a", [3, "a"]])),
            (json!({"$exists": true}), json!([1, null, []]), json!([])),
            (json!({"$exists": false}), json!([]), json!([1, null, []])),
            (json!({"$type": "string"}), json!(["", ["a", 1]]), json!([1, null, [1]])),
            (json!({"$type": ["number", "array"]}), json!([1, [], ["a"]]), json!(["a", null])),
            (json!({"$regex": "^K.*v$"}), json!(["Kyiv", ["x", "Kv"]]), json!(["kyiv", 1, null])),
            (json!({"$regex": "kyiv", "$options": "i"}), json!(["in KYIV"]), json!(["Lviv"])),
            (json!({"$not": {"$gt": 5}}), json!([5, "x", null]), json!([6, [1, 9]])),
            (json!({"$not": {"$gt": 5, "$lt": 9}}), json!([5, 9]), json!([6])),
            (json!({"$all": [1, 2]}), json!([[1, 2, 3]]), json!([1, [1]])),
        ] {
            for value in matching.as_array().unwrap() {
                assert!(value_matches(&condition, value), "{condition} {value}");
            }
            for value in other.as_array().unwrap() {
                assert!(!value_matches(&condition, value), "{condition} {value}");
            }
        }
    }

    #[test]
    fn paths_lead_through_objects_and_the_objects_of_arrays() {
        let query =
            |condition: Value| json!({"metadata": {"$elemMatch": {"key": "m", "value.a.b": condition}}});
        for (value, found) in [
            (json!({"a": {"b": 1}}), true),
            (json!({"a": [{"b": 2}, {"b": 1}]}), true),
            (json!([{"a": [{"b": [1]}]}]), true),
            (json!({"a": [[{"b": 1}]]}), false),
            (json!({"a": {"b": [[1]]}}), false),
            (json!({"a": 1}), false),
            (json!(1), false),
        ] {
            let metadata = json!({"m": value});
            assert_eq!(matches(&query(json!(1)), &metadata), found, "{value}");
            assert_eq!(matches(&query(json!({"$ne": 1})), &metadata), !found, "{value}");
        }
        for nothing in [json!({"a": 1}), json!({}), json!(7), json!([]), json!({"a": [1]})] {
            assert!(matches(&query(json!(null)), &json!({"m": nothing})), "{nothing}");
            assert!(matches(&query(json!({"$exists": false})), &json!({"m": nothing})), "{nothing}");
        }
        assert!(matches(&query(json!({"$exists": true})), &json!({"m": {"a": {"b": null}}})));
    }

    #[test]
    fn the_parts_of_elem_match_concern_one_entry() {
        let metadata = json!({"city": "Kyiv", "floor": 3, "note": "Kyiv"});
        for (query, expected) in [
            (json!({}), true),
            (json!({"application_version": "app-v1"}), true),
            (json!({"application_version": {"$in": ["app-v0", "app-v1"]}}), true),
            (json!({"application_version": {"$ne": "app-v1"}}), false),
            (json!({"application_version": {"$regex": "-v[0-9]+$"}}), true),
            (json!({"metadata": {"$elemMatch": {"key": "city", "value": "Kyiv"}}}), true),
            (json!({"metadata": {"$elemMatch": {"key": "city", "value": 3}}}), false),
            (json!({"metadata": {"$elemMatch": {"key": {"$in": ["none", "floor"]}, "value": 3}}}), true),
            (json!({"metadata": {"$elemMatch": {"value": "Kyiv"}}}), true),
            (json!({"metadata": {"$elemMatch": {"key": {"$regex": "^n"}, "value": "Kyiv"}}}), true),
            (json!({"metadata": {"$elemMatch": {"key": {"$gt": "note"}}}}), false),
            (json!({"metadata": {"$elemMatch": {"key": "none"}}}), false),
            // No entry at all, so also none with another value.
            (json!({"metadata": {"$elemMatch": {"key": "none", "value": {"$ne": 1}}}}), false),
            (json!({"metadata": {"$not": {"$elemMatch": {"key": "none"}}}}), true),
            (
                json!({"metadata": {"$all": [{"$elemMatch": {"key": "city"}}, {"$elemMatch": {"key": "floor"}}]}}),
                true,
            ),
            (
                json!({"metadata": {"$elemMatch": {"$or": [{"key": "x"}, {"key": "floor", "value": {"$gt": 2}}]}}}),
                true,
            ),
            (json!({"metadata": {"$elemMatch": {"key": "city", "$nor": [{"value": "Kyiv"}]}}}), false),
            (
                json!({"$nor": [{"application_version": "x"}, {"metadata": {"$elemMatch": {"key": "x"}}}]}),
                true,
            ),
            (json!({"$or": [{"application_version": "x"}, {}], "application_version": "app-v1"}), true),
            (json!({"$and": [{"application_version": "app-v1"}, {"application_version": "x"}]}), false),
        ] {
            assert_eq!(matches(&query, &metadata), expected, "{query}");
        }
    }
}
