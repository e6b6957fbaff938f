//! `/tenant-configs`: the configuration of services for a tenant as a whole.

use axum::extract::State;
use axum::response::Response;
use rest::{Caller, Error, IfMatch, IfNoneMatch, Json, Parameters};
use serde_json::Value;

use super::Api;
use super::configs::Resource;
use crate::document::Scope;

fn resource(caller: &Caller, parameters: &Parameters) -> Result<Resource, Error> {
    let tenant = caller.tenant_or(parameters.one("tenantId")?)?;
    Ok(Resource { tenant: tenant.clone(), scope: Scope::Tenant(tenant) })
}

/// The configuration of services for the tenant.
#[utoipa::path(
    get, path = "/tekton/api/v1/tenant-configs", tag = "service configuration",
    params(
        ("serviceInstanceName" = Option<Vec<String>>, Query, description = "Only these; repeated or by comma."),
        ("tenantId" = Option<String>, Query, description = "Another tenant: for administrators of the platform."),
        ("If-None-Match" = Option<String>, Header, description = "The tag of what the caller has."),
    ),
    responses(
        (status = 200, body = Object, headers(("ETag" = String, description = "The tag of this state."))),
        (status = 304, description = "The caller has it."),
        (status = 400, body = rest::ErrorBody), (status = 403, body = rest::ErrorBody),
    ),
)]
pub(super) async fn get(
    State(api): State<Api>,
    caller: Caller,
    parameters: Parameters,
    known: IfNoneMatch,
) -> Result<Response, Error> {
    api.read(&resource(&caller, &parameters)?, &parameters, &known).await
}

/// Replaces the configuration of all services for the tenant.
#[utoipa::path(
    put, path = "/tekton/api/v1/tenant-configs", tag = "service configuration",
    params(
        ("tenantId" = Option<String>, Query, description = "Another tenant: for administrators of the platform."),
        ("If-Match" = Option<String>, Header, description = "The tag of the state to replace."),
    ),
    request_body = Object,
    responses(
        (status = 200, body = Object, headers(("ETag" = String, description = "The tag of the new state."))),
        (status = 400, body = rest::ErrorBody), (status = 403, body = rest::ErrorBody),
        (status = 412, body = rest::ErrorBody), (status = 413, body = rest::ErrorBody),
    ),
)]
pub(super) async fn put(
    State(api): State<Api>,
    caller: Caller,
    parameters: Parameters,
    expected: IfMatch,
    Json(body): Json<Value>,
) -> Result<Response, Error> {
    api.replace(&caller, &resource(&caller, &parameters)?, &expected, body).await
}

/// Changes the configuration of the named services for the tenant by a JSON merge patch.
#[utoipa::path(
    patch, path = "/tekton/api/v1/tenant-configs", tag = "service configuration",
    params(
        ("serviceInstanceName" = Vec<String>, Query, description = "What to change; repeated or by comma."),
        ("tenantId" = Option<String>, Query, description = "Another tenant: for administrators of the platform."),
        ("If-Match" = Option<String>, Header, description = "The tag of what `GET` with the same names shows."),
    ),
    request_body = Object,
    responses(
        (status = 200, body = Object, headers(("ETag" = String, description = "The tag of the new state."))),
        (status = 400, body = rest::ErrorBody), (status = 403, body = rest::ErrorBody),
        (status = 412, body = rest::ErrorBody), (status = 413, body = rest::ErrorBody),
    ),
)]
pub(super) async fn patch(
    State(api): State<Api>,
    caller: Caller,
    parameters: Parameters,
    expected: IfMatch,
    Json(body): Json<Value>,
) -> Result<Response, Error> {
    api.merge(&caller, &resource(&caller, &parameters)?, &expected, &parameters, body).await
}
