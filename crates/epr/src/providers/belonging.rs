//! Where an endpoint belongs (`EndpointGetRequest`).

use ids::{AppVersionName, ApplicationName, EndpointId, TenantId};
use ism::endpoints::{EndpointGetRequest, EndpointGetResponse};

use super::{Register, outcome};
use crate::error::Error;

/// 200 with the endpoint's application and version, 400, 404 or 503.
pub(super) async fn get(register: Register, request: EndpointGetRequest) -> EndpointGetResponse {
    let found = find(&register, &request).await;
    let (names, status_code, reason_phrase) = outcome(found);
    let (app_name, app_version_name) = names.unzip();
    EndpointGetResponse {
        correlation_id: request.correlation_id,
        timestamp: runtime::now_ms(),
        timeout: 0,
        app_name: app_name.as_ref().map(ToString::to_string),
        app_version_name: app_version_name.as_ref().map(ToString::to_string),
        status_code,
        reason_phrase,
    }
}

async fn find(
    register: &Register,
    request: &EndpointGetRequest,
) -> Result<(ApplicationName, AppVersionName), Error> {
    let tenant = TenantId::parse(&request.tenant_id)?;
    let endpoint_id = EndpointId::parse(&request.endpoint_id)?;
    register.store.belonging(&tenant, &endpoint_id).await?.ok_or(Error::UnknownEndpoint(endpoint_id))
}
