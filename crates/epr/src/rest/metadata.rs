//! `/endpoints/{endpointId}/metadata...`

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use ids::{ApplicationName, EndpointId};
use rest::{Caller, Error, IfMatch, IfNoneMatch, Json, Parameters, Path, not_modified, tagged};
use serde_json::{Map, Value};

use super::Api;
use crate::metadata::Edit;
use crate::store::State as Metadata;
use crate::updates::{MetadataChange, Precondition};

impl Api {
    async fn read(&self, caller: &Caller, endpoint_id: &EndpointId) -> Result<Metadata, Error> {
        self.admit(caller, endpoint_id).await?;
        Ok(self.store.metadata(Some(&caller.tenant), endpoint_id).await?)
    }

    async fn edit(
        &self,
        caller: Caller,
        endpoint_id: EndpointId,
        if_match: IfMatch,
        edit: Edit,
    ) -> Result<Metadata, Error> {
        self.admit(&caller, &endpoint_id).await?;
        let precondition: Precondition = Arc::new(move |tag| if_match.allows(tag));
        let change = MetadataChange {
            correlation_id: caller.correlation_id.to_string(),
            tenant: Some(caller.tenant),
            endpoint_id,
            precondition,
            deadline: None,
            edit,
        };
        Ok(self.updates.metadata(change).await?)
    }
}

/// An endpoint's metadata.
#[utoipa::path(
    get, path = "/epr/api/v1/endpoints/{endpointId}/metadata", tag = "metadata",
    params(
        ("endpointId" = String, Path, description = "The endpoint's id."),
        ("include" = Option<Vec<String>>, Query, description = "Only these keys; repeated or by comma."),
        ("If-None-Match" = Option<String>, Header, description = "ETags: 304 when the metadata has one of them."),
    ),
    responses(
        (status = 200, body = Object, headers(("ETag" = String, description = "Names this state of the metadata."))),
        (status = 304), (status = 404, body = rest::ErrorBody),
    ),
)]
pub(super) async fn get(
    State(api): State<Api>,
    caller: Caller,
    Path(endpoint_id): Path<EndpointId>,
    parameters: Parameters,
    known: IfNoneMatch,
) -> Result<Response, Error> {
    let keys: Vec<String> = parameters.list("include")?;
    let mut state = api.read(&caller, &endpoint_id).await?;
    if known.matches(&state.tag) {
        return Ok(not_modified(&state.tag));
    }
    if !keys.is_empty() {
        state.metadata.retain(|key, _| keys.contains(key));
    }
    Ok(tagged(&state.tag, Json(state.metadata)))
}

/// Replaces an endpoint's metadata. Answers the metadata as they are now.
#[utoipa::path(
    put, path = "/epr/api/v1/endpoints/{endpointId}/metadata", tag = "metadata", request_body = Object,
    params(
        ("endpointId" = String, Path, description = "The endpoint's id."),
        ("If-Match" = Option<String>, Header, description = "ETags: 412 when the metadata has none of them."),
        ("inheritedMetadata" = Option<bool>, Query, description = "Accepted; endpoints inherit none here."),
    ),
    responses(
        (status = 200, body = Object, headers(("ETag" = String, description = "Names this state of the metadata."))),
        (status = 400, body = rest::ErrorBody), (status = 404, body = rest::ErrorBody),
        (status = 412, body = rest::ErrorBody, description = "The metadata changed meanwhile."),
    ),
)]
pub(super) async fn put(
    State(api): State<Api>,
    caller: Caller,
    Path(endpoint_id): Path<EndpointId>,
    if_match: IfMatch,
    Json(metadata): Json<Map<String, Value>>,
) -> Result<Response, Error> {
    let state = api.edit(caller, endpoint_id, if_match, Edit::Replace(metadata)).await?;
    Ok(tagged(&state.tag, Json(state.metadata)))
}

/// Changes an endpoint's metadata by a JSON Patch (RFC 6902) of up to 256 operations: all of them or none. Answers the
/// metadata as they are now.
#[utoipa::path(
    patch, path = "/epr/api/v1/endpoints/{endpointId}/metadata", tag = "metadata",
    request_body(content = Vec<Object>, content_type = "application/json-patch+json"),
    params(
        ("endpointId" = String, Path, description = "The endpoint's id."),
        ("If-Match" = Option<String>, Header, description = "ETags: 412 when the metadata has none of them."),
    ),
    responses(
        (status = 200, body = Object, headers(("ETag" = String, description = "Names this state of the metadata."))),
        (status = 400, body = rest::ErrorBody), (status = 404, body = rest::ErrorBody),
        (status = 409, body = rest::ErrorBody, description = "A test failed, or a path leads nowhere."),
        (status = 412, body = rest::ErrorBody, description = "The metadata changed meanwhile."),
    ),
)]
pub(super) async fn patch(
    State(api): State<Api>,
    caller: Caller,
    Path(endpoint_id): Path<EndpointId>,
    if_match: IfMatch,
    Json(operations): Json<Vec<Value>>,
) -> Result<Response, Error> {
    let edit = Edit::patch(operations).map_err(crate::error::Error::from)?;
    let state = api.edit(caller, endpoint_id, if_match, edit).await?;
    Ok(tagged(&state.tag, Json(state.metadata)))
}

/// The value of a metadata key.
#[utoipa::path(
    get, path = "/epr/api/v1/endpoints/{endpointId}/metadata/{key}", tag = "metadata",
    params(
        ("endpointId" = String, Path, description = "The endpoint's id."),
        ("key" = String, Path, description = "The metadata key."),
        ("If-None-Match" = Option<String>, Header, description = "ETags: 304 when the metadata has one of them."),
    ),
    responses(
        (status = 200, description = "Any JSON value.", body = Value,
            headers(("ETag" = String, description = "Names the state of all metadata of the endpoint."))),
        (status = 304), (status = 404, body = rest::ErrorBody, description = "No such endpoint or key."),
    ),
)]
pub(super) async fn get_key(
    State(api): State<Api>,
    caller: Caller,
    Path((endpoint_id, key)): Path<(EndpointId, String)>,
    known: IfNoneMatch,
) -> Result<Response, Error> {
    let mut state = api.read(&caller, &endpoint_id).await?;
    let Some(value) = state.metadata.remove(&key) else {
        crate::metadata::check_key(&key).map_err(crate::error::Error::from)?;
        return Err(crate::error::Error::UnknownKey(key).into());
    };
    Ok(if known.matches(&state.tag) { not_modified(&state.tag) } else { tagged(&state.tag, Json(value)) })
}

/// Sets a metadata key to the value in the body.
#[utoipa::path(
    put, path = "/epr/api/v1/endpoints/{endpointId}/metadata/{key}", tag = "metadata",
    request_body(content = Value, description = "Any JSON value."),
    params(
        ("endpointId" = String, Path, description = "The endpoint's id."),
        ("key" = String, Path, description = "The metadata key, `^[a-zA-Z0-9_]+$`, up to 128 bytes."),
        ("If-Match" = Option<String>, Header, description = "ETags: 412 when the metadata has none of them."),
    ),
    responses(
        (status = 204, headers(("ETag" = String, description = "Names the state of all metadata of the endpoint."))),
        (status = 400, body = rest::ErrorBody), (status = 404, body = rest::ErrorBody),
        (status = 412, body = rest::ErrorBody, description = "The metadata changed meanwhile."),
    ),
)]
pub(super) async fn put_key(
    State(api): State<Api>,
    caller: Caller,
    Path((endpoint_id, key)): Path<(EndpointId, String)>,
    if_match: IfMatch,
    Json(value): Json<Value>,
) -> Result<Response, Error> {
    let state = api.edit(caller, endpoint_id, if_match, Edit::set(key, value)).await?;
    Ok(tagged(&state.tag, StatusCode::NO_CONTENT))
}

/// Removes a metadata key. One that is not there is gone already.
#[utoipa::path(
    delete, path = "/epr/api/v1/endpoints/{endpointId}/metadata/{key}", tag = "metadata",
    params(
        ("endpointId" = String, Path, description = "The endpoint's id."),
        ("key" = String, Path, description = "The metadata key."),
        ("If-Match" = Option<String>, Header, description = "ETags: 412 when the metadata has none of them."),
    ),
    responses(
        (status = 204, headers(("ETag" = String, description = "Names the state of all metadata of the endpoint."))),
        (status = 404, body = rest::ErrorBody),
        (status = 412, body = rest::ErrorBody, description = "The metadata changed meanwhile."),
    ),
)]
pub(super) async fn delete_key(
    State(api): State<Api>,
    caller: Caller,
    Path((endpoint_id, key)): Path<(EndpointId, String)>,
    if_match: IfMatch,
) -> Result<Response, Error> {
    let state = api.edit(caller, endpoint_id, if_match, Edit::Remove(key)).await?;
    Ok(tagged(&state.tag, StatusCode::NO_CONTENT))
}

/// The keys of an endpoint's metadata.
#[utoipa::path(
    get, path = "/epr/api/v1/endpoints/{endpointId}/metadata-keys", tag = "metadata",
    params(("endpointId" = String, Path, description = "The endpoint's id.")),
    responses((status = 200, body = Vec<String>), (status = 404, body = rest::ErrorBody)),
)]
pub(super) async fn keys(
    State(api): State<Api>,
    caller: Caller,
    Path(endpoint_id): Path<EndpointId>,
) -> Result<Json<Vec<String>>, Error> {
    let state = api.read(&caller, &endpoint_id).await?;
    Ok(Json(state.metadata.into_iter().map(|(key, _)| key).collect()))
}

/// The metadata keys that endpoints of an application have, by application version; 10000 at most, in order of names.
#[utoipa::path(
    get, path = "/epr/api/v1/applications/{applicationName}/metadata-keys", tag = "metadata",
    params(("applicationName" = String, Path, description = "The application's name.")),
    responses(
        (status = 200, body = BTreeMap<String, Vec<String>>),
        (status = 404, body = rest::ErrorBody, description = "No such application."),
    ),
)]
pub(super) async fn keys_of_application(
    State(api): State<Api>,
    caller: Caller,
    Path(application): Path<ApplicationName>,
) -> Result<Json<BTreeMap<String, Vec<String>>>, Error> {
    api.updates.check_application(&caller.tenant, &application).await?;
    Ok(Json(api.store.metadata_keys(&caller.tenant, &application).await?))
}
