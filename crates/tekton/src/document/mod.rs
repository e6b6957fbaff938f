//! The JSON form of service configuration (Kaa's shape), and the blocks that it is made of.
//!
//! Outside, the configuration of an application is one document: service instance name → `{"kaa":
//! {"applications": {"<application>": block}}}`, where the block may hold `versions.<version>` → block; that of
//! a tenant: service instance name → `{"kaa": {"tenants": {"<tenant>": {"config": block}}}}`. Key paths may be
//! written with dots (`"kaa.applications.<application>"`). Inside, each block stands on its own under a
//! [`Level`] of its service instance.

mod tree;

use std::collections::BTreeMap;
use std::fmt;

use ids::{AppVersionName, ApplicationName, InstanceName, InvalidId, TenantId};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use tree::{Found, below, depth, merge};

const VERSIONS: &str = "versions";
const CONFIG: &str = "config";
/// Where all applications stand in a service instance's part of a document.
const APPLICATIONS: [&str; 2] = ["kaa", "applications"];
/// Levels of a service instance's part of a document at most. What is stored must be readable again: readers of JSON
/// go 128 levels deep.
const LEVELS_MAX: usize = 100;
/// Bytes of a document's digest that make its tag.
const TAG_BYTES: usize = 16;

/// Where a block applies: in the whole tenant, for one version, or for all versions that have none of their
/// own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Tenant,
    Application,
    Version(AppVersionName),
}

/// A service's settings at one level.
pub(crate) type Block = Map<String, Value>;

/// Blocks of a tenant or of an application by service instance and level.
pub(crate) type Blocks = BTreeMap<(InstanceName, Level), Block>;

/// What a document says for each service instance: the tenant's block, or the application's with `versions`
/// inside; `null` removes. Checked for their form, not for their content.
pub(crate) type Nodes = BTreeMap<InstanceName, Value>;

/// What is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error(
        "the body must be a JSON object of service instance names, e.g. {{\"epts\": {{\"kaa\": {{...}}}}}}"
    )]
    NotAnObject,
    #[error("{name:?} names no service instance: {source}")]
    Instance { name: String, source: InvalidId },
    #[error("{name:?} names no application: {source}")]
    Application { name: String, source: InvalidId },
    #[error("{instance} is not one of the service instances in serviceInstanceName")]
    NotNamed { instance: InstanceName },
    #[error(
        "the configuration of {instance} must have the form {{\"{expected}\": {{...}}}} and nothing beside it"
    )]
    Form { instance: InstanceName, expected: String },
    #[error("the block of {instance} at {path} must be a JSON object")]
    NotABlock { instance: InstanceName, path: String },
    #[error(
        "the configuration of {instance} is nested deeper than {LEVELS_MAX} levels (each dot in a key is one)"
    )]
    TooDeep { instance: InstanceName },
    #[error("{name:?} is no version of application {application}")]
    UnknownVersion { name: String, application: ApplicationName },
}

/// The part of the configuration that one REST resource stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    Tenant(TenantId),
    /// The application with all its versions.
    Application(ApplicationName),
    Version(ApplicationName, AppVersionName),
}

impl Scope {
    /// The application, unless the scope is a tenant.
    pub(crate) fn application(&self) -> Option<&ApplicationName> {
        match self {
            Self::Tenant(_) => None,
            Self::Application(application) | Self::Version(application, _) => Some(application),
        }
    }

    /// Whether blocks of this level belong to the resource.
    pub(crate) fn covers(&self, level: &Level) -> bool {
        match (self, level) {
            (Self::Tenant(_), Level::Tenant) => true,
            (Self::Application(_), Level::Application | Level::Version(_)) => true,
            (Self::Version(_, own), Level::Version(version)) => own == version,
            _ => false,
        }
    }

    /// What a document says.
    pub(crate) fn nodes(&self, body: Value) -> Result<Nodes, Fault> {
        let mut nodes = Nodes::new();
        for (instance, tree) in instances(body)? {
            if let Some(node) = self.node(&instance, tree)? {
                nodes.insert(instance, node);
            }
        }
        Ok(nodes)
    }

    /// What a patch of the named service instances says. The body is a document, or, for a single instance,
    /// what that document would hold for it.
    pub(crate) fn patch_nodes(&self, named: &[InstanceName], body: Value) -> Result<Nodes, Fault> {
        let body = match (named, &body) {
            ([one], Value::Object(map)) if !map.contains_key(one.as_str()) => json!({ one.as_str(): body }),
            _ => body,
        };
        let nodes = self.nodes(body)?;
        match nodes.keys().find(|instance| !named.contains(instance)) {
            Some(instance) => Err(Fault::NotNamed { instance: instance.clone() }),
            None => Ok(nodes),
        }
    }

    /// One service instance's part of a document; none when it says nothing of this scope.
    fn node(&self, instance: &InstanceName, tree: Value) -> Result<Option<Value>, Fault> {
        let (path, name) = match self {
            Self::Tenant(tenant) => (vec!["kaa", "tenants", tenant.as_str()], CONFIG),
            Self::Application(application) => (APPLICATIONS.to_vec(), application.as_str()),
            Self::Version(application, version) => {
                (vec!["kaa", "applications", application.as_str(), VERSIONS], version.as_str())
            }
        };
        let form =
            || Fault::Form { instance: instance.clone(), expected: [&path[..], &[name]].concat().join(".") };
        let node = match below(tree, &path).ok_or_else(form)? {
            Found::Cleared => Value::Null,
            Found::Entries(mut entries) => match (entries.remove(name), entries.is_empty()) {
                (_, false) => return Err(form()),
                (None, true) => return Ok(None),
                (Some(node), true) => node,
            },
        };
        Ok(Some(match self {
            Self::Version(_, version) => json!({ VERSIONS: { version.as_str(): node } }),
            _ => node,
        }))
    }

    /// The blocks after a `PUT`: those that the nodes hold.
    pub(crate) fn replace(&self, nodes: Nodes, versions: &[String]) -> Result<Blocks, Fault> {
        let mut blocks = Blocks::new();
        for (instance, node) in nodes {
            self.split(&instance, node, versions, &mut blocks)?;
        }
        Ok(blocks)
    }

    /// The blocks after a JSON merge patch (RFC 7396).
    pub(crate) fn merge(&self, blocks: Blocks, patch: Nodes, versions: &[String]) -> Result<Blocks, Fault> {
        let mut nodes = join(blocks);
        for (instance, change) in patch {
            merge(nodes.entry(instance).or_insert(Value::Null), change);
        }
        self.replace(nodes, versions)
    }

    /// The document of some blocks.
    pub(crate) fn document(&self, blocks: Blocks) -> Value {
        let outer = join(blocks).into_iter().map(|(instance, node)| {
            let inner = match self {
                Self::Tenant(tenant) => json!({"tenants": {tenant.as_str(): {CONFIG: node}}}),
                Self::Application(name) | Self::Version(name, _) => {
                    json!({"applications": {name.as_str(): node}})
                }
            };
            (instance.to_string(), json!({ "kaa": inner }))
        });
        Value::Object(outer.collect())
    }

    fn split(
        &self,
        instance: &InstanceName,
        node: Value,
        known: &[String],
        blocks: &mut Blocks,
    ) -> Result<(), Fault> {
        let not_a_block = |path: &str| Fault::NotABlock { instance: instance.clone(), path: path.to_owned() };
        let mut insert = |level, block| blocks.insert((instance.clone(), level), block);
        let mut block = match node {
            Value::Null => return Ok(()),
            Value::Object(block) => block,
            _ => return Err(not_a_block(&self.to_string())),
        };
        let Some(application) = self.application() else {
            insert(Level::Tenant, block);
            return Ok(());
        };
        let versions = block.remove(VERSIONS);
        // Beside version-level blocks an empty block is no block: it is what remains when they are taken out.
        if versions.is_none() || !block.is_empty() {
            insert(Level::Application, block);
        }
        let versions = match versions {
            None | Some(Value::Null) => return Ok(()),
            Some(Value::Object(versions)) => versions,
            Some(_) => return Err(not_a_block(VERSIONS)),
        };
        for (name, block) in versions {
            let version = known.contains(&name).then(|| AppVersionName::parse(&name).ok()).flatten();
            let Some(version) = version else {
                return Err(Fault::UnknownVersion { name, application: application.clone() });
            };
            match block {
                Value::Null => {}
                Value::Object(block) => {
                    insert(Level::Version(version), block);
                }
                _ => return Err(not_a_block(&format!("{application}.{VERSIONS}.{version}"))),
            }
        }
        Ok(())
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant(tenant) => write!(formatter, "tenant {tenant}"),
            Self::Application(application) => write!(formatter, "application {application}"),
            Self::Version(_, version) => write!(formatter, "application version {version}"),
        }
    }
}

/// What a document of many applications says of each.
pub(crate) fn nodes_of_all(body: Value) -> Result<BTreeMap<ApplicationName, Nodes>, Fault> {
    let mut all: BTreeMap<ApplicationName, Nodes> = BTreeMap::new();
    for (instance, tree) in instances(body)? {
        let form = || Fault::Form { instance: instance.clone(), expected: APPLICATIONS.join(".") };
        // `null` for all applications at once would remove what the caller has not seen.
        let Some(Found::Entries(entries)) = below(tree, &APPLICATIONS) else { return Err(form()) };
        for (name, node) in entries {
            let application =
                ApplicationName::parse(&name).map_err(|source| Fault::Application { name, source })?;
            all.entry(application).or_default().insert(instance.clone(), node);
        }
    }
    Ok(all)
}

/// The document of many applications: the inverse of [`nodes_of_all`].
pub(crate) fn document_of_all(all: BTreeMap<ApplicationName, Blocks>) -> Value {
    let mut outer: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for (application, blocks) in all {
        for (instance, node) in join(blocks) {
            outer.entry(instance.to_string()).or_default().insert(application.to_string(), node);
        }
    }
    let outer =
        outer.into_iter().map(|(instance, nodes)| (instance, json!({"kaa": {"applications": nodes}})));
    Value::Object(outer.collect())
}

/// The tag (`ETag`) of a document: the same for the same content.
pub(crate) fn tag(document: &Value) -> String {
    let digest = Sha256::digest(document.to_string());
    digest.iter().take(TAG_BYTES).map(|byte| format!("{byte:02x}")).collect()
}

fn instances(body: Value) -> Result<Vec<(InstanceName, Value)>, Fault> {
    let Value::Object(instances) = body else { return Err(Fault::NotAnObject) };
    let parsed = instances.into_iter().map(|(name, tree)| match InstanceName::parse(&name) {
        // Before dots are taken apart: a key can hold more of them than there is stack to walk along.
        Ok(instance) if depth(&tree) > LEVELS_MAX => Err(Fault::TooDeep { instance }),
        Ok(instance) => Ok((instance, tree)),
        Err(source) => Err(Fault::Instance { name, source }),
    });
    parsed.collect()
}

fn join(blocks: Blocks) -> Nodes {
    let mut nodes = Nodes::new();
    // Application-level blocks sort first, so their node is there when the versions come.
    for ((instance, level), block) in blocks {
        match level {
            Level::Tenant | Level::Application => {
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

#[cfg(test)]
mod tests;
