//! JSON Patch (RFC 6902) on metadata.

use json_patch::{PatchErrorKind, PatchOperation, TestOperation};
use serde_json::Value;

use super::{Invalid, Limits, Metadata, check_bounds};
use crate::filters::equal;

/// Operations of one patch.
pub(crate) const OPERATIONS_MAX: usize = 256;

/// Why a patch was not applied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PatchError {
    /// It is no patch.
    #[error("{0}")]
    Malformed(String),
    /// It does not fit the metadata as they are.
    #[error(
        "operation {index} of the patch cannot be applied to the metadata as they are, at {path:?}: {kind}"
    )]
    Unfit { index: usize, path: String, kind: PatchErrorKind },
    /// What comes out of it may not be stored.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

/// Reads a patch.
pub(crate) fn parse(operations: Vec<Value>) -> Result<Vec<PatchOperation>, PatchError> {
    if operations.len() > OPERATIONS_MAX {
        let (given, max) = (operations.len(), OPERATIONS_MAX);
        return Err(PatchError::Malformed(format!("the patch has {given} operations, {max} are allowed")));
    }
    let read = |(index, operation)| {
        serde_json::from_value(operation)
            .map_err(|error| PatchError::Malformed(format!("operation {index} of the patch: {error}")))
    };
    operations.into_iter().enumerate().map(read).collect()
}

/// Applies a patch to a copy of the metadata: all of it or nothing.
pub(crate) fn apply(
    metadata: &Metadata,
    patch: &[PatchOperation],
    limits: Limits,
) -> Result<Metadata, PatchError> {
    let mut document = Value::Object(metadata.clone());
    for (index, operation) in patch.iter().enumerate() {
        if let PatchOperation::Test(wanted) = operation {
            test(&document, wanted).map_err(|kind| unfit(index, wanted.path.as_str(), kind))?;
            continue;
        }
        json_patch::patch_unsafe(&mut document, std::slice::from_ref(operation))
            .map_err(|error| unfit(index, error.path.as_str(), error.kind))?;
        let Value::Object(metadata) = &document else {
            let message =
                format!("operation {index} of the patch makes the metadata something else than an object");
            return Err(PatchError::Malformed(message));
        };
        // A few copies of a document into itself would fill the memory before the end is checked.
        for value in metadata.values() {
            check_bounds(value, limits.bytes_max)?;
        }
    }
    match document {
        Value::Object(metadata) => Ok(metadata),
        _ => Err(PatchError::Malformed("the patch makes no object".to_owned())),
    }
}

/// Numbers are equal by their value (RFC 6902, section 4.6): 1 is 1.0.
fn test(document: &Value, wanted: &TestOperation) -> Result<(), PatchErrorKind> {
    let found = document.pointer(wanted.path.as_str()).ok_or(PatchErrorKind::InvalidPointer)?;
    if equal(found, &wanted.value) { Ok(()) } else { Err(PatchErrorKind::TestFailed) }
}

fn unfit(index: usize, path: &str, kind: PatchErrorKind) -> PatchError {
    PatchError::Unfit { index, path: path.chars().take(128).collect(), kind }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const LIMITS: Limits = Limits { keys_max: 10, bytes_max: 1_000 };

    fn patched(metadata: Value, patch: Value) -> Result<Value, String> {
        let (Value::Object(metadata), Value::Array(patch)) = (metadata, patch) else { panic!("wrong types") };
        let patch = parse(patch).map_err(|error| error.to_string())?;
        apply(&metadata, &patch, LIMITS).map(Value::Object).map_err(|error| error.to_string())
    }

    #[test]
    fn a_patch_is_applied_as_a_whole_or_not_at_all() {
        let before = json!({"a": 1, "b": [1, 2]});
        let patch = json!([
            {"op": "test", "path": "/a", "value": 1}, {"op": "replace", "path": "/a", "value": null},
            {"op": "add", "path": "/b/-", "value": 3}, {"op": "move", "from": "/b", "path": "/c"},
            {"op": "copy", "from": "/c/0", "path": "/d"}, {"op": "remove", "path": "/c/1"},
        ]);
        assert_eq!(patched(before.clone(), patch), Ok(json!({"a": null, "c": [1, 3], "d": 1})));
        assert_eq!(patched(before.clone(), json!([])), Ok(before.clone()));
        let failing = json!([
            {"op": "remove", "path": "/a"}, {"op": "test", "path": "/b", "value": []},
        ]);
        assert!(patched(before, failing).unwrap_err().contains("operation 1"));
    }

    #[test]
    fn a_test_compares_values_and_not_spellings() {
        let before = json!({"a": {"b/c~": [1.0, {"x": 2, "y": null}]}});
        let test = |path: &str, value: Value| {
            patched(before.clone(), json!([{"op": "test", "path": path, "value": value}])).is_ok()
        };
        assert!(test("/a/b~1c~0/0", json!(1)) && test("/a", json!({"b/c~": [1, {"y": null, "x": 2.0}]})));
        assert!(test("", before.clone()));
        assert!(!test("/a/b~1c~0/0", json!("1")) && !test("/a/b~1c~0/-", json!(1)));
        assert!(!test("/z", Value::Null) && !test("/a/b~1c~0/00", json!(1)));
    }

    #[test]
    fn what_is_no_patch_is_told_from_what_does_not_fit() {
        for bad in [json!([1]), json!([{"op": "x"}]), json!([{"op": "add", "path": "a", "value": 1}])] {
            let Value::Array(operations) = bad else { panic!("no array") };
            assert!(matches!(parse(operations), Err(PatchError::Malformed(_))));
        }
        assert!(matches!(parse(vec![Value::Null; OPERATIONS_MAX + 1]), Err(PatchError::Malformed(_))));
        let whole = json!([{"op": "replace", "path": "", "value": [1]}]);
        assert!(patched(json!({}), whole).unwrap_err().contains("something else than an object"));
        assert!(patched(json!({}), json!([{"op": "remove", "path": "/a"}])).unwrap_err().contains("\"/a\""));
    }

    #[test]
    fn copies_do_not_grow_beyond_the_limit() {
        let doubling = json!({"op": "copy", "from": "/a", "path": "/a/-"});
        let message = patched(json!({"a": ["0123456789"]}), Value::Array(vec![doubling; 200])).unwrap_err();
        assert!(message.contains("epr.metadata_bytes_max"), "{message}");
        let deeper = json!({"op": "copy", "from": "", "path": "/a"});
        let message = patched(json!({"a": 1}), Value::Array(vec![deeper; 200])).unwrap_err();
        assert!(message.contains("levels") || message.contains("bytes_max"), "{message}");
    }
}
