//! The REST interface: what is known of the connectivity of an endpoint.

use axum::extract::State;
use ids::EndpointId;
use rest::{Caller, Error, ErrorBody, Json, Path, Rule, Scope, rule};
use runtime::{Applications, LookupError};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::metadata::iso8601;
use crate::settings::Settings;
use crate::store::Store;

/// What each route needs.
pub const ROUTES: &[Rule] =
    &[rule("GET", "/epl/api/v1/endpoints/{endpointId}/connectivity", "endpoint:read", Scope::Handler)];

/// What the handlers work with.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) store: Store,
    pub(crate) applications: Applications<Settings>,
}

pub(crate) fn router(api: Api) -> axum::Router {
    let routes = OpenApiRouter::new().routes(routes!(connectivity)).with_state(api);
    rest::service("epl", ROUTES, routes)
}

/// Whether an endpoint is connected.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ConnectivityView {
    endpoint_id: String,
    /// Whether a client of it is connected to the platform.
    connected: bool,
    /// When that last changed: ISO-8601 in UTC with milliseconds.
    #[schema(format = DateTime)]
    changed_date: String,
}

/// Whether an endpoint is connected, and since when.
#[utoipa::path(
    get, path = "/epl/api/v1/endpoints/{endpointId}/connectivity", tag = "connectivity",
    params(("endpointId" = String, Path, description = "The endpoint")),
    responses(
        (status = 200, body = ConnectivityView),
        (status = 404, description = "There is no such endpoint, or it has never been connected", body = ErrorBody),
        (status = 503, description = "The application register does not answer", body = ErrorBody))
)]
async fn connectivity(
    State(api): State<Api>,
    caller: Caller,
    Path(endpoint_id): Path<String>,
) -> Result<Json<ConnectivityView>, Error> {
    let unknown = || {
        Error::not_found(format!("the endpoint {endpoint_id} does not exist, or has never been connected"))
    };
    let id = EndpointId::parse(&endpoint_id).map_err(|_| unknown())?;
    let found = api.store.connectivity(&id).await?.ok_or_else(unknown)?;
    // The table knows no tenants: the application version says whose the endpoint is.
    let version = api.applications.version(&found.app_version).await.map_err(|error| match error {
        LookupError::Unknown => unknown(),
        LookupError::Unavailable(_) => Error::unavailable(error.to_string()),
    })?;
    if version.tenant_id != caller.tenant {
        return Err(unknown());
    }
    caller.check_application(&version.app_name)?;
    Ok(Json(ConnectivityView {
        connected: found.is_connected,
        changed_date: iso8601(found.changed_ms),
        endpoint_id,
    }))
}
