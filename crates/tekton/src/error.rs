//! Why an operation failed.

use chrono::{DateTime, Utc};
use ids::{AppVersionName, ApplicationName, InstanceName, InvalidId};

use crate::document::{Fault, Level};
use crate::domain::Invalid;
use crate::instances::InvalidDescription;
use crate::schema::Unusable;

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("application {0} does not exist")]
    UnknownApplication(ApplicationName),
    #[error("application version {version} does not exist in application {application}")]
    UnknownVersion { application: ApplicationName, version: AppVersionName },
    #[error("the name {0} is taken, or differs from a taken one in - and _ only; choose another")]
    ApplicationExists(ApplicationName),
    #[error("application version {0} exists already; choose another nameSuffix")]
    VersionExists(AppVersionName),
    #[error("{name} was deleted at {at}; its name is free again {days} days after that")]
    Deleted { name: String, at: DateTime<Utc>, days: i32 },
    #[error(
        "application {application} has {versions} versions: delete them first, or call with cascade=true to delete \
         the application with all of them"
    )]
    HasVersions { application: ApplicationName, versions: i64 },
    #[error("the tenant has the most applications allowed, {0} (tekton.applications_max)")]
    TooManyApplications(i64),
    #[error("the application has the most versions allowed, {0} (tekton.app_versions_max)")]
    TooManyVersions(i64),
    #[error("there are the most service instances allowed, {0} (tekton.service_instances_max)")]
    TooManyInstances(i64),
    #[error("service instance {0} is not known: it has not announced itself")]
    NoSuchInstance(InstanceName),
    #[error("unknown service instance {name:?}; {}", known_names(.known))]
    UnknownInstance { name: InstanceName, known: Vec<String> },
    #[error("{instance} takes no configuration of {}: it has published no schema for it", kind(.level))]
    NoSchema { instance: InstanceName, level: Level },
    #[error("the configuration does not satisfy the schema of its service. {}", .0.join("; "))]
    Unsatisfied(Vec<String>),
    #[error(
        "the schema that {instance} has published cannot be used: {source}; its service must publish another"
    )]
    Schema { instance: InstanceName, source: Unusable },
    #[error(
        "the block of {instance} has {bytes} bytes, more than the {max} allowed (tekton.block_bytes_max)"
    )]
    BlockTooLarge { instance: String, bytes: usize, max: usize },
    #[error("the configuration of {owner} would have {bytes} bytes, more than the {max} allowed ({key})")]
    ConfigTooLarge { owner: String, bytes: usize, max: usize, key: &'static str },
    #[error(
        "the configuration to export has {bytes} bytes, more than the {max} allowed (tekton.export_bytes_max): \
         select service instances or applications"
    )]
    ExportTooLarge { bytes: usize, max: usize },
    #[error("there are more than {0} applications to export (tekton.export_applications_max): select some")]
    TooManyToExport(i64),
    #[error("the description has {bytes} bytes, more than the {max} allowed (tekton.description_bytes_max)")]
    DescriptionTooLarge { bytes: usize, max: usize },
    #[error("it changed meanwhile: its ETag is \"{0}\", which If-Match does not name; read it again")]
    Changed(String),
    #[error(transparent)]
    Description(#[from] InvalidDescription),
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error(transparent)]
    Document(#[from] Fault),
    #[error("a stored or generated name breaks its rule")]
    Name(#[from] InvalidId),
    #[error("what is stored is not the JSON that it should be")]
    Stored(#[source] serde_json::Error),
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}

fn known_names(names: &[String]) -> String {
    if names.is_empty() {
        return "no service has announced itself yet: start the services first, then configure them"
            .to_owned();
    }
    format!("known are {}", names.join(", "))
}

fn kind(level: &Level) -> &'static str {
    match level {
        Level::Tenant => "a tenant",
        Level::Application => "an application",
        Level::Version(_) => "an application version",
    }
}
