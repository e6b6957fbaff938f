//! The JSON form of service configuration (Kaa's shape), and the blocks that it is made of.
//!
//! Outside, the configuration of an application is one document: service instance name → `{"kaa":
//! {"applications": {"<application>": block}}}`, where the block may hold `versions.<version>` → block. Key
//! paths may be written with dots (`"kaa.applications.<application>"`). Inside, each block stands on its own
//! under a [`Level`] of its service instance.

use std::collections::BTreeMap;

use ids::{AppVersionName, ApplicationName, InstanceName};
use serde_json::{Map, Value, json};

const VERSIONS: &str = "versions";

/// Where a block applies: for one version, or for all versions that have none of their own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Application,
    Version(AppVersionName),
}

/// The blocks of an application by service instance and level.
pub(crate) type Blocks = BTreeMap<(InstanceName, Level), Map<String, Value>>;

/// The application's node for each service instance: its block with `versions` inside.
type Nodes = BTreeMap<InstanceName, Value>;

/// What is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error(
        "the body must be a JSON object of service instance names, e.g. {{\"epts\": {{\"kaa\": {{...}}}}}}"
    )]
    NotAnObject,
    #[error("{name:?} names no service instance: {source}")]
    Instance { name: String, source: ids::InvalidId },
    #[error("{instance} is not one of the service instances in serviceInstanceName")]
    NotNamed { instance: InstanceName },
    #[error(
        "the configuration of {instance} must have the form {{\"{expected}\": {{...}}}} and nothing beside it"
    )]
    Form { instance: InstanceName, expected: String },
    #[error("the block of {instance} at {path} must be a JSON object")]
    NotABlock { instance: InstanceName, path: String },
    #[error("{name:?} is no version of application {application}")]
    UnknownVersion { name: String, application: ApplicationName },
}

/// The part of an application's configuration that one REST resource stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scope {
    pub(crate) application: ApplicationName,
    pub(crate) level: Level,
}

impl Scope {
    /// Whether blocks of this level belong to the resource: the application's resource holds its versions
    /// too.
    pub(crate) fn covers(&self, level: &Level) -> bool {
        self.level == Level::Application || self.level == *level
    }

    /// The blocks that a whole document sets.
    pub(crate) fn read(&self, body: Value, versions: &[String]) -> Result<Blocks, Fault> {
        self.split(self.nodes(body)?, versions)
    }

    /// The blocks after a JSON merge patch (RFC 7396) to those of the named service instances. The body is a
    /// document, or, for a single instance, what that document would hold for it.
    pub(crate) fn patch(
        &self,
        blocks: Blocks,
        named: &[InstanceName],
        body: Value,
        versions: &[String],
    ) -> Result<Blocks, Fault> {
        let body = match (named, &body) {
            ([one], Value::Object(map)) if !map.contains_key(one.as_str()) => json!({ one.as_str(): body }),
            _ => body,
        };
        let mut nodes = join(blocks);
        for (instance, change) in self.nodes(body)? {
            if !named.contains(&instance) {
                return Err(Fault::NotNamed { instance });
            }
            let node = nodes.entry(instance).or_insert(Value::Null);
            merge(node, change);
        }
        self.split(nodes, versions)
    }

    /// The document of some blocks.
    pub(crate) fn document(&self, blocks: Blocks) -> Value {
        let outer: Map<String, Value> = join(blocks)
            .into_iter()
            .map(|(instance, node)| {
                (instance.to_string(), json!({"kaa": {"applications": {self.application.as_str(): node}}}))
            })
            .collect();
        Value::Object(outer)
    }

    /// Takes each service instance's node out of a document; `null` stands for no configuration.
    fn nodes(&self, body: Value) -> Result<Nodes, Fault> {
        let Value::Object(instances) = body else { return Err(Fault::NotAnObject) };
        let mut path = vec!["kaa", "applications", self.application.as_str()];
        if let Level::Version(version) = &self.level {
            path.extend([VERSIONS, version.as_str()]);
        }
        let mut nodes = Nodes::new();
        for (name, tree) in instances {
            let instance = InstanceName::parse(&name).map_err(|source| Fault::Instance { name, source })?;
            let Some(inner) = descend(tree, &path) else {
                return Err(Fault::Form { instance, expected: path.join(".") });
            };
            let node = match &self.level {
                Level::Application => inner,
                Level::Version(version) => json!({ VERSIONS: { version.as_str(): inner } }),
            };
            nodes.insert(instance, node);
        }
        Ok(nodes)
    }

    fn split(&self, nodes: Nodes, known: &[String]) -> Result<Blocks, Fault> {
        let mut blocks = Blocks::new();
        for (instance, node) in nodes {
            let not_a_block =
                |path: &str| Fault::NotABlock { instance: instance.clone(), path: path.to_owned() };
            let mut block = match node {
                Value::Null => continue,
                Value::Object(block) => block,
                _ => return Err(not_a_block(self.application.as_str())),
            };
            let versions = block.remove(VERSIONS);
            // Beside version-level blocks an empty block is no block: it is what remains when they are taken
            // out.
            if versions.is_none() || !block.is_empty() {
                blocks.insert((instance.clone(), Level::Application), block);
            }
            let versions = match versions {
                None | Some(Value::Null) => continue,
                Some(Value::Object(versions)) => versions,
                Some(_) => return Err(not_a_block(VERSIONS)),
            };
            for (name, block) in versions {
                let version = known.contains(&name).then(|| AppVersionName::parse(&name).ok()).flatten();
                let Some(version) = version else {
                    return Err(Fault::UnknownVersion { name, application: self.application.clone() });
                };
                match block {
                    Value::Null => {}
                    Value::Object(block) => {
                        blocks.insert((instance.clone(), Level::Version(version)), block);
                    }
                    _ => return Err(not_a_block(&format!("{VERSIONS}.{version}"))),
                }
            }
        }
        Ok(blocks)
    }
}

/// Follows a path through objects whose keys may join several of its parts by dots, and that hold nothing
/// beside it. An empty object or `null` on the way stands for nothing at its end.
fn descend(tree: Value, path: &[&str]) -> Option<Value> {
    if path.is_empty() || tree.is_null() {
        return Some(tree);
    }
    let Value::Object(object) = tree else { return None };
    let mut entries = object.into_iter();
    let Some((key, inner)) = entries.next() else { return Some(Value::Null) };
    if entries.next().is_some() {
        return None;
    }
    let parts = (1..=path.len()).find(|&parts| path[..parts].join(".") == key)?;
    descend(inner, &path[parts..])
}

fn join(blocks: Blocks) -> Nodes {
    let mut nodes = Nodes::new();
    // Application-level blocks sort first, so their node is there when the versions come.
    for ((instance, level), block) in blocks {
        match level {
            Level::Application => {
                nodes.insert(instance, Value::Object(block));
            }
            Level::Version(version) => {
                let node = nodes.entry(instance).or_insert_with(|| json!({}));
                node[VERSIONS][version.as_str()] = Value::Object(block);
            }
        }
    }
    nodes
}

/// JSON merge patch (RFC 7396).
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = json!({});
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

    fn scope(version: Option<&str>) -> Scope {
        Scope {
            application: ApplicationName::parse("app").unwrap(),
            level: version.map_or(Level::Application, |version| {
                Level::Version(AppVersionName::parse(version).unwrap())
            }),
        }
    }

    fn versions() -> Vec<String> {
        vec!["app-v1".to_owned(), "app-v2".to_owned()]
    }

    fn read(version: Option<&str>, body: Value) -> Result<Value, Fault> {
        let scope = scope(version);
        scope.read(body, &versions()).map(|blocks| scope.document(blocks))
    }

    #[test]
    fn a_document_read_and_written_again_is_the_same() {
        let body = json!({
            "dcx": {"kaa": {"applications": {"app": {"a": 1}}}},
            "epts": {"kaa": {"applications": {"app": {"b": [null], "versions": {"app-v1": {"c": {}}, "app-v2": {}}}}}},
            "kpc": {"kaa": {"applications": {"app": {"versions": {"app-v1": {}}}}}},
        });
        assert_eq!(read(None, body.clone()), Ok(body));
    }

    #[test]
    fn dotted_keys_mean_the_same_as_nested_ones() {
        let nested = json!({"dcx": {"kaa": {"applications": {"app": {"a.b": 1}}}}});
        for body in [
            json!({"dcx": {"kaa.applications.app": {"a.b": 1}}}),
            json!({"dcx": {"kaa.applications": {"app": {"a.b": 1}}}}),
            json!({"dcx": {"kaa": {"applications.app": {"a.b": 1}}}}),
        ] {
            assert_eq!(read(None, body), Ok(nested.clone()));
        }
        let version = json!({"dcx": {"kaa": {"applications": {"app": {"versions": {"app-v1": {"a": 1}}}}}}});
        let dotted = json!({"dcx": {"kaa.applications.app": {"versions": {"app-v1": {"a": 1}}}}});
        assert_eq!(read(Some("app-v1"), dotted), Ok(version.clone()));
        let full = json!({"dcx": {"kaa.applications.app.versions.app-v1": {"a": 1}}});
        assert_eq!(read(Some("app-v1"), full), Ok(version));
    }

    #[test]
    fn absent_configuration_is_no_block() {
        for body in [json!({}), json!({"dcx": null}), json!({"dcx": {}}), json!({"dcx": {"kaa": {}}})] {
            assert_eq!(read(None, body), Ok(json!({})));
        }
    }

    #[test]
    fn faults_name_the_place() {
        let fault = |version, body| read(version, body).unwrap_err().to_string();
        assert!(fault(None, json!([])).contains("JSON object"));
        assert!(fault(None, json!({"a.b": {}})).contains("a.b"));
        let other = json!({"dcx": {"kaa": {"applications": {"other": {}}}}});
        assert!(fault(None, other).contains("kaa.applications.app"));
        let beside = json!({"dcx": {"kaa": {"applications": {"app": {}}}, "x": 1}});
        assert!(fault(None, beside).contains("nothing beside"));
        assert!(fault(None, json!({"dcx": {"kaa.applications.app": 5}})).contains("JSON object"));
        let unknown = json!({"dcx": {"kaa.applications.app": {"versions": {"app-v9": {}}}}});
        assert!(fault(None, unknown).contains("app-v9"));
        let level = json!({"dcx": {"kaa.applications.app": {"a": 1}}});
        assert!(fault(Some("app-v1"), level).contains("versions.app-v1"));
    }

    #[test]
    fn a_patch_merges_into_named_instances_only() {
        let scope = scope(None);
        let document = json!({
            "dcx": {"kaa": {"applications": {"app": {"a": {"x": 1, "y": 2}, "versions": {"app-v1": {"v": 1}}}}}},
            "epts": {"kaa": {"applications": {"app": {"e": 1}}}},
        });
        let before = scope.read(document, &versions()).unwrap();
        let dcx = [InstanceName::parse("dcx").unwrap()];
        let change =
            json!({"kaa.applications.app": {"a": {"x": null, "z": 3}, "versions": {"app-v2": {"v": 2}}}});
        let after = scope.patch(before.clone(), &dcx, change.clone(), &versions()).unwrap();
        let expected = json!({"a": {"y": 2, "z": 3}, "versions": {"app-v1": {"v": 1}, "app-v2": {"v": 2}}});
        assert_eq!(scope.document(after.clone())["dcx"]["kaa"]["applications"]["app"], expected);
        assert_eq!(scope.document(after)["epts"], scope.document(before.clone())["epts"]);

        let outer = json!({ "epts": change });
        assert!(matches!(scope.patch(before.clone(), &dcx, outer, &versions()), Err(Fault::Form { .. })));
        let both = json!({ "dcx": {}, "epts": {} });
        assert!(matches!(scope.patch(before.clone(), &dcx, both, &versions()), Err(Fault::NotNamed { .. })));
        let removed =
            scope.patch(before, &dcx, json!({"dcx": {"kaa.applications.app": null}}), &versions()).unwrap();
        assert_eq!(scope.document(removed).as_object().unwrap().len(), 1);
    }
}
