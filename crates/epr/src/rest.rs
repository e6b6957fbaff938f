//! The REST interface, `/epr/api/v1/...`.

mod batch;
mod endpoints;
mod metadata;
mod relations;
mod search;
mod versions;

use axum::Router;
use ids::EndpointId;
use rest::{Caller, Rule, Scope, rule};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::batch::Batches;
use crate::error::Error;
use crate::filters::{self, Filters};
use crate::metadata::PatchError;
use crate::registration::Registrar;
use crate::removal::Remover;
use crate::store::Store;
use crate::updates::Updates;

const FILTERS: &str = "/epr/api/v1/applications/{applicationName}/filters";
const FILTER: &str = "/epr/api/v1/applications/{applicationName}/filters/{filterId}";
const OF_APPLICATION: Scope = Scope::Path("applicationName");

/// What each route needs.
pub const ROUTES: &[Rule] = &[
    rule("GET", "/epr/api/v1/endpoints", "endpoint:read", Scope::Handler),
    rule("POST", "/epr/api/v1/endpoints", "application:endpoint:create", Scope::Handler),
    rule("POST", "/epr/api/v1/endpoints/search", "endpoint:read", Scope::Handler),
    rule("POST", "/epr/api/v1/endpoints/delete", "endpoint:delete", Scope::Handler),
    rule("POST", "/epr/api/v1/endpoints/batch", "application:endpoint:create", Scope::Handler),
    rule("GET", "/epr/api/v1/endpoints/batch/status", "application:endpoint:create", Scope::Handler),
    rule("GET", "/epr/api/v1/endpoints/{endpointId}", "endpoint:read", Scope::Handler),
    rule("DELETE", "/epr/api/v1/endpoints/{endpointId}", "endpoint:delete", Scope::Handler),
    rule("GET", "/epr/api/v1/endpoints/{endpointId}/app-version", "endpoint:read", Scope::Handler),
    rule("PUT", "/epr/api/v1/endpoints/{endpointId}/app-version", "endpoint:update", Scope::Handler),
    rule("GET", "/epr/api/v1/endpoints/{endpointId}/relations", "endpoint:read", Scope::Handler),
    rule("PUT", "/epr/api/v1/relations/link", "endpoint:update", Scope::Handler),
    rule("PUT", "/epr/api/v1/relations/unlink", "endpoint:update", Scope::Handler),
    rule("GET", "/epr/api/v1/endpoints/{endpointId}/metadata", "endpoint:read", Scope::Handler),
    rule("PUT", "/epr/api/v1/endpoints/{endpointId}/metadata", "endpoint:update", Scope::Handler),
    rule("PATCH", "/epr/api/v1/endpoints/{endpointId}/metadata", "endpoint:update", Scope::Handler),
    rule("GET", "/epr/api/v1/endpoints/{endpointId}/metadata/{key}", "endpoint:read", Scope::Handler),
    rule("PUT", "/epr/api/v1/endpoints/{endpointId}/metadata/{key}", "endpoint:update", Scope::Handler),
    rule("DELETE", "/epr/api/v1/endpoints/{endpointId}/metadata/{key}", "endpoint:update", Scope::Handler),
    rule("GET", "/epr/api/v1/endpoints/{endpointId}/metadata-keys", "endpoint:read", Scope::Handler),
    rule("GET", "/epr/api/v1/applications/{applicationName}/metadata-keys", "endpoint:read", OF_APPLICATION),
    rule("GET", FILTERS, "application:endpoint-filter:read", OF_APPLICATION),
    rule("POST", FILTERS, "application:endpoint-filter:create", OF_APPLICATION),
    rule("GET", FILTER, "application:endpoint-filter:read", OF_APPLICATION),
    rule("PATCH", FILTER, "application:endpoint-filter:update", OF_APPLICATION),
    rule("DELETE", FILTER, "application:endpoint-filter:delete", OF_APPLICATION),
];

/// What the handlers work with.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) store: Store,
    pub(crate) registrar: Registrar,
    pub(crate) updates: Updates,
    pub(crate) remover: Remover,
    pub(crate) batches: Batches,
    pub(crate) filters: Filters,
    pub(crate) list_offset_max: i64,
    pub(crate) list_metadata_bytes_max: usize,
    pub(crate) relations_per_endpoint_max: i64,
}

impl Api {
    /// Whether the caller reaches the endpoint on this route: 404 when the tenant has none such, 403 when it is of an
    /// application that the caller does not reach.
    async fn admit(&self, caller: &Caller, endpoint_id: &EndpointId) -> Result<(), rest::Error> {
        if caller.applications().is_none() {
            return Ok(());
        }
        let found = self.store.belonging(&caller.tenant, endpoint_id).await?;
        let (application, _) = found.ok_or_else(|| Error::UnknownEndpoint(endpoint_id.clone()))?;
        caller.check_application(&application)
    }
}

/// The routes of the service.
pub(crate) fn router(api: Api) -> Router {
    let of_filters = filters::routes(api.filters.clone());
    let routes = OpenApiRouter::new()
        .routes(routes!(endpoints::create, endpoints::list))
        .routes(routes!(search::search))
        .routes(routes!(search::delete))
        .routes(routes!(batch::create))
        .routes(routes!(batch::status))
        .routes(routes!(endpoints::get, endpoints::delete))
        .routes(routes!(versions::get, versions::put))
        .routes(routes!(relations::list))
        .routes(routes!(relations::link))
        .routes(routes!(relations::unlink))
        .routes(routes!(metadata::get, metadata::put, metadata::patch))
        .routes(routes!(metadata::get_key, metadata::put_key, metadata::delete_key))
        .routes(routes!(metadata::keys))
        .routes(routes!(metadata::keys_of_application))
        .with_state(api)
        .merge(of_filters);
    rest::service("epr", ROUTES, routes)
}

impl From<Error> for rest::Error {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::UnknownVersion(_)
            | Error::UnknownEndpoint(_)
            | Error::UnknownKey(_)
            | Error::Unknown(_) => Self::not_found(message),
            Error::EndpointExists(_) | Error::TokenTaken(_) | Error::Conflict(_) => Self::conflict(message),
            Error::Patch(PatchError::Unfit { .. }) => Self::conflict(message),
            Error::TokenInvalid(_)
            | Error::ForeignVersion { .. }
            | Error::Invalid(_)
            | Error::Refused(_)
            | Error::Patch(_) => Self::bad_request(message),
            Error::Changed { .. } => Self::precondition_failed(message),
            Error::TooManyTasks { .. } => Self::too_many(message),
            Error::VersionsUnavailable(_)
            | Error::Reserved(_)
            | Error::Deleting(_)
            | Error::NoToken(_)
            | Error::TokenLate(_)
            | Error::TokensLeft { .. }
            | Error::Stopping => Self::unavailable(message),
            Error::TooLate => Self::timed_out(message),
            Error::Name(_) | Error::Seal(_) => Self::internal(error),
            Error::Filters(source) => source.into(),
            Error::Database(source) => source.into(),
        }
    }
}
