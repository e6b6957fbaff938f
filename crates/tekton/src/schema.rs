//! Judges blocks by the JSON Schemas that services publish for their configuration.

use jsonschema::{PatternOptions, ValidationError, Validator};
use serde_json::Value;

/// Faults of one change that are told at most.
pub(crate) const FAULTS_MAX: usize = 10;
/// Characters of one fault that are told at most.
const FAULT_CHARS_MAX: usize = 300;
/// References to references of a schema that are followed at most without a step into the value.
const REFERENCES_MAX: usize = 64;
/// Bytes of one compiled regular expression.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// A JSON Schema, ready to judge.
pub(crate) struct Schema(Validator);

/// Why a text is no JSON Schema that can be used here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unusable(String);

impl Schema {
    /// Compiles a schema: draft 2020-12 unless `$schema` names another. Nothing is fetched from elsewhere.
    pub(crate) fn compile(schema: &Value) -> Result<Self, Unusable> {
        check_references(schema)?;
        jsonschema::options()
            .offline()
            // Linear in the length of the text, whatever the pattern.
            .with_pattern_options(
                PatternOptions::regex().size_limit(PATTERN_BYTES_MAX).dfa_size_limit(PATTERN_BYTES_MAX),
            )
            .build(schema)
            .map(Self)
            .map_err(|error| Unusable(fault(&error)))
    }

    /// What is wrong with a block: for each fault its place (JSON pointer) and cause. Values are not shown:
    /// they may be long, or secret.
    pub(crate) fn faults(&self, block: &Value) -> Vec<String> {
        self.0.iter_errors(block).take(FAULTS_MAX).map(|error| fault(&error)).collect()
    }
}

fn fault(error: &ValidationError<'_>) -> String {
    let (path, cause) = (error.instance_path().as_str(), error.masked().to_string());
    let place = if path.is_empty() { "the whole" } else { path };
    let text = format!("{place}: {cause}");
    if text.chars().count() <= FAULT_CHARS_MAX {
        return text;
    }
    text.chars().take(FAULT_CHARS_MAX).chain("...".chars()).collect()
}

/// Refuses schemas that refer to themselves without a step into the value: judging by them would never end.
///
/// A schema reaches another at the same place of the value by `$ref` (within the document) and by the keywords
/// that combine schemas.
fn check_references(schema: &Value) -> Result<(), Unusable> {
    let mut places = vec![schema];
    while let Some(place) = places.pop() {
        match place {
            Value::Object(object) => {
                ["$dynamicRef", "$recursiveRef"].into_iter().try_for_each(|keyword| {
                    if object.contains_key(keyword) {
                        return Err(Unusable(format!("{keyword} is not supported: use $ref")));
                    }
                    Ok(())
                })?;
                if object.contains_key("$ref") {
                    follow(schema, place, 0, &mut 0)?;
                }
                places.extend(object.values());
            }
            Value::Array(items) => places.extend(items),
            _ => {}
        }
    }
    Ok(())
}

/// Subschemas at one place that are looked at before a schema is found to be too entangled.
const STEPS_MAX: usize = 10_000;

fn follow(root: &Value, place: &Value, depth: usize, steps: &mut usize) -> Result<(), Unusable> {
    *steps += 1;
    if depth > REFERENCES_MAX || *steps > STEPS_MAX {
        return Err(Unusable("its references lead in a circle, or are too many".to_owned()));
    }
    let Value::Object(object) = place else { return Ok(()) };
    if let Some(Value::String(reference)) = object.get("$ref") {
        let target = reference.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
        let target = target.ok_or_else(|| {
            Unusable(format!(
                "$ref {reference:?} must lead to a place in the same schema, e.g. \"#/$defs/name\""
            ))
        })?;
        follow(root, target, depth + 1, steps)?;
    }
    for keyword in ["allOf", "anyOf", "oneOf"] {
        for inner in object.get(keyword).and_then(Value::as_array).into_iter().flatten() {
            follow(root, inner, depth + 1, steps)?;
        }
    }
    for keyword in ["not", "if", "then", "else"] {
        if let Some(inner) = object.get(keyword) {
            follow(root, inner, depth + 1, steps)?;
        }
    }
    for inner in
        object.get("dependentSchemas").and_then(Value::as_object).into_iter().flat_map(|map| map.values())
    {
        follow(root, inner, depth + 1, steps)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(schema: Value) -> String {
        match Schema::compile(&schema) {
            Ok(_) => panic!("{schema} was taken"),
            Err(unusable) => unusable.to_string(),
        }
    }

    #[test]
    fn faults_have_place_and_cause_but_no_value() {
        let schema = json!({
            "type": "object", "additionalProperties": false,
            "properties": {"a": {"type": "array", "items": {"type": "integer", "minimum": 1}}, "b": {"pattern": "^[a-z]+$"}},
        });
        let schema = Schema::compile(&schema).unwrap();
        assert!(schema.faults(&json!({"a": [1, 2], "b": "x"})).is_empty());
        let faults = schema.faults(&json!({"a": [1, "hunter2", 0], "b": "B", "c": 1}));
        assert_eq!(faults.len(), 4, "{faults:?}");
        assert!(
            faults.iter().any(|fault| fault.starts_with("/a/1: ") && fault.contains("integer")),
            "{faults:?}"
        );
        assert!(
            faults.iter().any(|fault| fault.starts_with("the whole: ") && fault.contains("'c'")),
            "{faults:?}"
        );
        assert!(!faults.concat().contains("hunter2"));
        let many = json!({"a": (0..50).map(|_| 0).collect::<Vec<_>>()});
        assert_eq!(schema.faults(&many).len(), FAULTS_MAX);
        let long = schema.faults(&json!({"x".repeat(1_000): 1}));
        assert!(long[0].chars().count() <= FAULT_CHARS_MAX + 3, "{}", long[0].len());
    }

    #[test]
    fn what_is_no_schema_is_refused() {
        assert!(refused(json!({"type": "objekt"})).contains("/type"));
        assert!(!refused(json!(5)).is_empty());
        assert!(!refused(json!({"pattern": "("})).is_empty());
        assert!(!refused(json!({"pattern": "(?=a)b"})).is_empty());
        assert!(!refused(json!({"$schema": "https://example.com/none"})).is_empty());
        for remote in ["https://example.com/schema.json", "file:///etc/hostname", "other.json", "#anchor"] {
            assert!(
                refused(json!({"properties": {"a": {"$ref": remote}}})).contains("same schema"),
                "{remote}"
            );
        }
        assert!(refused(json!({"$dynamicRef": "#x"})).contains("$dynamicRef"));
    }

    #[test]
    fn schemas_that_would_never_end_are_refused() {
        for circle in [
            json!({"$ref": "#"}),
            json!({"allOf": [{"$ref": "#"}]}),
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}]}, "b": {"not": {"$ref": "#/$defs/a"}}}}),
        ] {
            assert!(refused(circle.clone()).contains("circle"), "{circle}");
        }
        // Into the value it may go on for as long as the value does.
        let tree =
            json!({"type": "object", "properties": {"inner": {"$ref": "#"}}, "additionalProperties": false});
        let tree = Schema::compile(&tree).unwrap();
        assert!(tree.faults(&json!({"inner": {"inner": {}}})).is_empty());
        assert_eq!(tree.faults(&json!({"inner": {"inner": 1}})).len(), 1);
    }

    #[test]
    fn the_schemas_of_the_platform_are_usable_and_agree_with_their_examples() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto-schemas/json/configuration");
        let read = |path: &std::path::Path| -> Value {
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
        };
        let mut seen = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let Some(base) = path.to_str().unwrap().strip_suffix(".schema.json").map(str::to_owned) else {
                continue;
            };
            let schema = Schema::compile(&read(&path)).unwrap_or_else(|error| panic!("{base}: {error}"));
            let examples = read(format!("{base}.examples.json").as_ref());
            for valid in examples["valid"].as_array().unwrap() {
                assert_eq!(schema.faults(valid), Vec::<String>::new(), "{base}: {valid}");
            }
            for invalid in examples["invalid"].as_array().unwrap() {
                assert!(!schema.faults(invalid).is_empty(), "{base}: {invalid}");
            }
            seen += 1;
        }
        assert!(seen > 0, "{folder} holds no schemas");
    }

    #[test]
    fn true_takes_everything() {
        assert!(Schema::compile(&json!(true)).unwrap().faults(&json!({"a": 1})).is_empty());
        assert_eq!(Schema::compile(&json!(false)).unwrap().faults(&json!({})).len(), 1);
    }
}
