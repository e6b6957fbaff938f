//! The REST interface, `/tekton/api/v1/...`.

mod app_configs;
mod applications;
mod bulk;
mod configs;
mod service_instances;
mod tenant_configs;
mod versions;

use axum::Router;
use rest::{Rule, Scope, rule};
use tokio::time::Instant;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::error::Error;
use crate::events::Events;
use crate::store::Store;

const APPLICATIONS: &str = "/tekton/api/v1/applications";
const APPLICATION: &str = "/tekton/api/v1/applications/{appName}";
const VERSIONS: &str = "/tekton/api/v1/applications/{appName}/app-versions";
const VERSION: &str = "/tekton/api/v1/applications/{appName}/app-versions/{appVersionName}";
const ALL_CONFIGS: &str = "/tekton/api/v1/app-configs";
const APPLICATION_CONFIG: &str = "/tekton/api/v1/app-configs/applications/{appName}";
const VERSION_CONFIG: &str =
    "/tekton/api/v1/app-configs/applications/{appName}/app-versions/{appVersionName}";
const TENANT_CONFIG: &str = "/tekton/api/v1/tenant-configs";

/// What each route needs.
pub const ROUTES: &[Rule] = &[
    rule("POST", APPLICATIONS, "tenant:application:create", Scope::Tenant),
    rule("GET", APPLICATIONS, "application:read", Scope::Handler),
    rule("GET", APPLICATION, "application:read", Scope::Path("appName")),
    rule("PATCH", APPLICATION, "application:update", Scope::Path("appName")),
    rule("DELETE", APPLICATION, "application:delete", Scope::Path("appName")),
    rule("POST", VERSIONS, "application:update", Scope::Path("appName")),
    rule("GET", VERSIONS, "application:read", Scope::Path("appName")),
    rule("GET", VERSION, "application:read", Scope::Path("appName")),
    rule("PATCH", VERSION, "application:update", Scope::Path("appName")),
    rule("DELETE", VERSION, "application:delete", Scope::Path("appName")),
    rule("GET", ALL_CONFIGS, "application:read", Scope::Handler),
    rule("POST", ALL_CONFIGS, "application:update", Scope::Handler),
    rule("GET", APPLICATION_CONFIG, "application:read", Scope::Path("appName")),
    rule("PUT", APPLICATION_CONFIG, "application:update", Scope::Path("appName")),
    rule("PATCH", APPLICATION_CONFIG, "application:update", Scope::Path("appName")),
    rule("GET", VERSION_CONFIG, "application:read", Scope::Path("appName")),
    rule("PUT", VERSION_CONFIG, "application:update", Scope::Path("appName")),
    rule("PATCH", VERSION_CONFIG, "application:update", Scope::Path("appName")),
    rule("GET", TENANT_CONFIG, "tenant:configuration:read", Scope::Tenant),
    rule("PUT", TENANT_CONFIG, "tenant:configuration:update", Scope::Tenant),
    rule("PATCH", TENANT_CONFIG, "tenant:configuration:update", Scope::Tenant),
    rule("GET", "/tekton/api/v1/bulk", "application:read", Scope::Handler),
    // The same for everybody, and nothing of any tenant.
    rule("GET", "/tekton/api/v1/service-instances", "application:read", Scope::Handler),
    rule("GET", "/tekton/api/v1/service-instances/{name}", "application:read", Scope::Handler),
];

/// What the handlers work with.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) store: Store,
    pub(crate) events: Events,
    /// Until then a service instance that is not known yet may still announce itself.
    pub(crate) grace_until: Instant,
}

/// The routes of the service.
pub(crate) fn router(api: Api) -> Router {
    let routes = OpenApiRouter::new()
        .routes(routes!(applications::create, applications::list))
        .routes(routes!(applications::get, applications::update, applications::delete))
        .routes(routes!(versions::create, versions::list))
        .routes(routes!(versions::get, versions::update, versions::delete))
        .routes(routes!(bulk::load_configs, bulk::export_configs))
        .routes(routes!(bulk::export))
        .routes(routes!(
            app_configs::get_application,
            app_configs::put_application,
            app_configs::patch_application
        ))
        .routes(routes!(app_configs::get_version, app_configs::put_version, app_configs::patch_version))
        .routes(routes!(tenant_configs::get, tenant_configs::put, tenant_configs::patch))
        .routes(routes!(service_instances::list))
        .routes(routes!(service_instances::get))
        .with_state(api);
    rest::service("tekton", ROUTES, routes)
}

impl From<Error> for rest::Error {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::UnknownApplication(_) | Error::UnknownVersion { .. } | Error::NoSuchInstance(_) => {
                Self::not_found(message)
            }
            Error::ApplicationExists(_)
            | Error::VersionExists(_)
            | Error::Deleted { .. }
            | Error::HasVersions { .. } => Self::conflict(message),
            Error::TooManyApplications(_) | Error::TooManyVersions(_) | Error::TooManyInstances(_) => {
                Self::too_many(message)
            }
            Error::Changed(_) => Self::precondition_failed(message),
            Error::BlockTooLarge { .. }
            | Error::ConfigTooLarge { .. }
            | Error::DescriptionTooLarge { .. } => Self::too_large(message),
            Error::Invalid(_)
            | Error::Document(_)
            | Error::UnknownInstance { .. }
            | Error::NoSchema { .. }
            | Error::Unsatisfied(_)
            | Error::Schema { .. }
            | Error::Description(_)
            | Error::ExportTooLarge { .. }
            | Error::TooManyToExport(_) => Self::bad_request(message),
            Error::Name(_) | Error::Stored(_) => Self::internal(error),
            Error::Database(source) => source.into(),
        }
    }
}
