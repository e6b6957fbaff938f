//! The JSON Schemas of what devices send and get, and their examples.

use std::path::Path;

use serde_json::Value as Json;

fn read(path: &Path) -> Json {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn schemas_take_their_valid_examples_and_no_others() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto-schemas/json");
    let mut schemas = 0;
    for protocol in std::fs::read_dir(root).unwrap() {
        for file in std::fs::read_dir(protocol.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let Some(stem) = path.to_str().unwrap().strip_suffix(".schema.json") else { continue };
            schemas += 1;
            // Each by the draft that it names; one that names none would be read as the newest.
            let text = read(&path);
            assert!(text["$schema"].is_string(), "{}: it names no draft in $schema", path.display());
            let schema = jsonschema::validator_for(&text)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            jsonschema::meta::validate(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let examples = read(Path::new(&format!("{stem}.examples.json")));
            for (kind, valid) in [("valid", true), ("invalid", false)] {
                for example in examples[kind].as_array().unwrap() {
                    assert_eq!(schema.is_valid(example), valid, "{}: {example}", path.display());
                }
            }
        }
    }
    assert_ne!(schemas, 0);
}
