//! 19/EPMMP: metadata for other services. Its requests name no tenant: an endpoint id is unique in the platform, and who
//! asks has found out whose it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use ids::EndpointId;
use ism::Record as _;
use ism::epmmp::{
    AppVersionsByEndpointsRequest, AppVersionsByEndpointsResponse, EndpointMetadataGetRequest,
    EndpointMetadataGetResponse, EndpointMetadataKeyUpdateRequest, EndpointMetadataKeyUpdateResponse,
    EndpointMetadataKeysGetRequest, EndpointMetadataKeysGetResponse, EndpointMetadataPatchRequest,
    EndpointMetadataPatchResponse,
};
use serde_json::Value;

use super::{Register, deadline, outcome};
use crate::error::Error;
use crate::metadata::{Edit, check_key};
use crate::store::State;
use crate::updates::{Precondition, unconditionally};

/// Endpoints in one question for versions.
const ENDPOINTS_MAX: usize = 10_000;

/// 200 with the metadata wanted, and the tag of all of them; 400, 404, 503.
pub(super) async fn get(
    register: Register,
    request: EndpointMetadataGetRequest,
) -> EndpointMetadataGetResponse {
    let found = async {
        let endpoint_id = EndpointId::parse(&request.endpoint_id)?;
        register.store.metadata(None, &endpoint_id).await
    };
    let (state, status_code, reason_phrase) = outcome(found.await);
    let payload =
        state.as_ref().filter(|_| request.include_metadata).map(|state| selected(state, &request.include));
    let (e_tag, app_version_name) = state.map(|state| (state.tag, state.app_version)).unzip();
    EndpointMetadataGetResponse {
        correlation_id: request.correlation_id,
        timestamp: runtime::now_ms(),
        timeout: 0,
        endpoint_id: request.endpoint_id,
        e_tag,
        payload,
        status_code,
        reason_phrase,
        app_version_name,
    }
}

fn selected(state: &State, keys: &[String]) -> Bytes {
    let metadata = &state.metadata;
    let object = if keys.is_empty() {
        Value::Object(metadata.clone())
    } else {
        let wanted = metadata.iter().filter(|(key, _)| keys.contains(key));
        Value::Object(wanted.map(|(key, value)| (key.clone(), value.clone())).collect())
    };
    object.to_string().into()
}

/// 200; 400, 404, 409 when the patch does not fit, 412, 503.
pub(super) async fn patch(
    register: Register,
    request: EndpointMetadataPatchRequest,
) -> EndpointMetadataPatchResponse {
    let deadline = deadline(&request);
    let (correlation_id, if_match) = (request.correlation_id.clone(), request.if_match);
    let done = async {
        let endpoint_id = EndpointId::parse(&request.endpoint_id)?;
        let operations: Vec<Value> = serde_json::from_slice(&request.patch)
            .map_err(|error| Error::Refused(format!("the patch is no array of operations: {error}")))?;
        let edit = Edit::patch(operations)?;
        let precondition = precondition(if_match);
        register.change(correlation_id, deadline, endpoint_id, precondition, edit).await
    };
    let (_, status_code, reason_phrase) = outcome(done.await);
    EndpointMetadataPatchResponse {
        correlation_id: request.correlation_id,
        timestamp: runtime::now_ms(),
        timeout: 0,
        endpoint_id: request.endpoint_id,
        status_code,
        reason_phrase,
    }
}

/// Reads the tag, or tags, as the header `If-Match` has them; quotes may be left out.
fn precondition(if_match: Option<String>) -> Precondition {
    let Some(tags) = if_match else { return unconditionally() };
    Arc::new(move |current| {
        tags.split(',')
            .map(|tag| tag.trim().trim_start_matches("W/").trim_matches('"'))
            .any(|tag| tag == "*" || tag == current)
    })
}

/// 200; 400, 404, 503.
pub(super) async fn update_key(
    register: Register,
    request: EndpointMetadataKeyUpdateRequest,
) -> EndpointMetadataKeyUpdateResponse {
    let deadline = deadline(&request);
    let done = async {
        let endpoint_id = EndpointId::parse(&request.endpoint_id)?;
        let value = value(&request.metadata_key, &request.metadata_value)?;
        let edit = Edit::set(request.metadata_key.clone(), value);
        let correlation_id = request.correlation_id.clone();
        register.change(correlation_id, deadline, endpoint_id, unconditionally(), edit).await
    };
    let (_, status_code, reason_phrase) = outcome(done.await);
    EndpointMetadataKeyUpdateResponse {
        correlation_id: request.correlation_id,
        timestamp: runtime::now_ms(),
        timeout: 0,
        endpoint_id: request.endpoint_id,
        status_code,
        reason_phrase,
    }
}

pub(super) fn value(key: &str, json: &Bytes) -> Result<Value, Error> {
    check_key(key)?;
    serde_json::from_slice(json)
        .map_err(|error| Error::Refused(format!("the value of metadata key {key} is no JSON: {error}")))
}

/// 200 with the keys; 400, 404, 503.
pub(super) async fn keys(
    register: Register,
    request: EndpointMetadataKeysGetRequest,
) -> EndpointMetadataKeysGetResponse {
    let found = async {
        let endpoint_id = EndpointId::parse(&request.endpoint_id)?;
        register.store.metadata(None, &endpoint_id).await
    };
    let (state, status_code, reason_phrase) = outcome(found.await);
    EndpointMetadataKeysGetResponse {
        correlation_id: request.correlation_id,
        timestamp: runtime::now_ms(),
        timeout: 0,
        endpoint_id: request.endpoint_id,
        keys: state.map(|state| state.metadata.keys().cloned().collect()).unwrap_or_default(),
        status_code,
        reason_phrase,
    }
}

/// 200 with those of the endpoints that there are; 400, 413 when they are too many for one message, 503.
pub(super) async fn app_versions(
    register: Register,
    request: AppVersionsByEndpointsRequest,
) -> AppVersionsByEndpointsResponse {
    let found = async {
        if request.endpoint_ids.len() > ENDPOINTS_MAX {
            return Err(Error::Refused(format!("a request may name {ENDPOINTS_MAX} endpoints")));
        }
        let ids: Vec<&str> = request.endpoint_ids.iter().map(String::as_str).collect();
        register.store.versions_of(&ids).await
    };
    let (versions, status_code, reason_phrase) = outcome(found.await);
    let mut by_version = BTreeMap::<String, Vec<String>>::new();
    for (endpoint_id, version) in versions.unwrap_or_default() {
        by_version.entry(version).or_default().push(endpoint_id);
    }
    let response = AppVersionsByEndpointsResponse {
        correlation_id: request.correlation_id,
        timestamp: runtime::now_ms(),
        timeout: 0,
        endpoint_ids: request.endpoint_ids,
        app_versions_to_endpoints: by_version,
        status_code,
        reason_phrase,
    };
    fitting(response, register.context.nats().server_info().max_payload)
}

/// NATS does not take messages above a size, and whoever asked would wait in vain.
fn fitting(response: AppVersionsByEndpointsResponse, bytes_max: usize) -> AppVersionsByEndpointsResponse {
    if response.encode().len() <= bytes_max {
        return response;
    }
    AppVersionsByEndpointsResponse {
        endpoint_ids: Vec::new(),
        app_versions_to_endpoints: BTreeMap::new(),
        status_code: 413,
        reason_phrase: Some(format!(
            "the versions do not fit into a message of {bytes_max} bytes (max_payload of NATS): ask for fewer endpoints"
        )),
        ..response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read_as_in_the_header() {
        let allows = |text: Option<&str>| precondition(text.map(str::to_owned))("7");
        assert!(allows(None) && allows(Some("*")) && allows(Some("7")) && allows(Some("\"6\", W/\"7\"")));
        assert!(!allows(Some("\"6\"")) && !allows(Some("")));
    }

    #[test]
    fn an_answer_that_is_too_long_becomes_413() {
        let response = AppVersionsByEndpointsResponse {
            endpoint_ids: vec!["e".repeat(100); 10],
            status_code: 200,
            ..AppVersionsByEndpointsResponse::default()
        };
        let length = response.encode().len();
        assert_eq!(fitting(response.clone(), length).status_code, 200);
        let refused = fitting(response, length - 1);
        assert_eq!((refused.status_code, refused.endpoint_ids.len()), (413, 0));
    }
}
