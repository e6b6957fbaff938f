//! Answers where an endpoint belongs (`EndpointGetRequest`).

use ids::{AppVersionName, ApplicationName, EndpointId, TenantId};
use ism::endpoints::{EndpointGetRequest, EndpointGetResponse};

use crate::error::Error;
use crate::store::Store;

/// Answers one request: 200 with the endpoint's application and version, 400, 404 or 503.
pub(crate) async fn answer(store: &Store, request: EndpointGetRequest) -> EndpointGetResponse {
    let (names, status_code, reason_phrase) = match find(store, &request).await {
        Ok(Some(names)) => (Some(names), 200, None),
        Ok(None) => (None, 404, Some("the tenant has no such endpoint".to_owned())),
        Err(Error::Name(invalid)) => (None, 400, Some(invalid.to_string())),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "an endpoint could not be looked up");
            (None, 503, Some("the endpoint register cannot read its database now".to_owned()))
        }
    };
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
    store: &Store,
    request: &EndpointGetRequest,
) -> Result<Option<(ApplicationName, AppVersionName)>, Error> {
    let tenant = TenantId::parse(&request.tenant_id)?;
    let endpoint_id = EndpointId::parse(&request.endpoint_id)?;
    store.belonging(&tenant, &endpoint_id).await
}
