//! Why an operation failed.

use ids::{AppVersionName, ApplicationName, InvalidId};

use crate::document::Fault;
use crate::domain::Invalid;

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("application {0} does not exist")]
    UnknownApplication(ApplicationName),
    #[error("application version {version} does not exist in application {application}")]
    UnknownVersion { application: ApplicationName, version: AppVersionName },
    #[error("application version {0} exists already; choose another nameSuffix")]
    VersionExists(AppVersionName),
    #[error("the tenant has the most applications allowed, {0} (tekton.applications_max)")]
    TooManyApplications(i64),
    #[error("the application has the most versions allowed, {0} (tekton.app_versions_max)")]
    TooManyVersions(i64),
    #[error(
        "the block of {instance} has {bytes} bytes, more than the {max} allowed (tekton.block_bytes_max)"
    )]
    BlockTooLarge { instance: String, bytes: usize, max: usize },
    #[error(
        "the application's configuration would have {bytes} bytes, more than the {max} allowed \
         (tekton.application_config_bytes_max)"
    )]
    ConfigTooLarge { bytes: usize, max: usize },
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error(transparent)]
    Document(#[from] Fault),
    #[error("a generated name breaks its rule")]
    Name(#[from] InvalidId),
    #[error("a stored configuration block is not JSON")]
    StoredBlock(#[source] serde_json::Error),
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}
