//! `/endpoints/{endpointId}/app-version`

use axum::extract::State;
use ids::EndpointId;
use rest::{Caller, Error, Json, Path};

use super::Api;
use super::endpoints::VersionName;
use crate::domain::EndpointVersion;

/// The application version of an endpoint.
#[utoipa::path(
    get, path = "/epr/api/v1/endpoints/{endpointId}/app-version", tag = "endpoints",
    params(("endpointId" = String, Path, description = "The endpoint's id.")),
    responses((status = 200, body = EndpointVersion), (status = 404, body = rest::ErrorBody)),
)]
pub(super) async fn get(
    State(api): State<Api>,
    caller: Caller,
    Path(endpoint_id): Path<EndpointId>,
) -> Result<Json<EndpointVersion>, Error> {
    api.admit(&caller, &endpoint_id).await?;
    Ok(Json(api.store.endpoint(&caller.tenant, &endpoint_id, false).await?.app_version))
}

/// Moves an endpoint to another version of its application.
#[utoipa::path(
    put, path = "/epr/api/v1/endpoints/{endpointId}/app-version", tag = "endpoints", request_body = VersionName,
    params(("endpointId" = String, Path, description = "The endpoint's id.")),
    responses(
        (status = 200, body = EndpointVersion),
        (status = 400, body = rest::ErrorBody, description = "The version is of another application."),
        (status = 404, body = rest::ErrorBody, description = "No such endpoint or version."),
    ),
)]
pub(super) async fn put(
    State(api): State<Api>,
    caller: Caller,
    Path(endpoint_id): Path<EndpointId>,
    Json(version): Json<VersionName>,
) -> Result<Json<EndpointVersion>, Error> {
    api.admit(&caller, &endpoint_id).await?;
    let (correlation_id, tenant) = (caller.correlation_id.to_string(), caller.tenant);
    api.updates.app_version(correlation_id, Some(tenant.clone()), endpoint_id.clone(), version.name).await?;
    Ok(Json(api.store.endpoint(&tenant, &endpoint_id, false).await?.app_version))
}
