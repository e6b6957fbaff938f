//! Which application an endpoint belongs to, as `epr` has it.

use std::time::Duration;

use ids::{ApplicationName, EndpointId, TenantId};
use ism::endpoints::{GET_REQUEST, GET_RESPONSE};
use ism::subject::instance;
use ism::{EndpointGetRequest, EndpointGetResponse, Record as _};

use crate::{Context, LookupError, now_ms, trace};

impl Context {
    /// Asks the endpoint register for the application of a tenant's endpoint. Nothing is kept: the asker knows how long
    /// it may trust the answer.
    pub async fn application_of(
        &self,
        correlation_id: &str,
        tenant: &TenantId,
        endpoint_id: &EndpointId,
        timeout: Duration,
    ) -> Result<ApplicationName, LookupError> {
        let request = EndpointGetRequest {
            correlation_id: correlation_id.to_owned(),
            timestamp: now_ms(),
            timeout: i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX),
            tenant_id: tenant.to_string(),
            endpoint_id: endpoint_id.to_string(),
        };
        let subject = GET_REQUEST.at(instance::EPR);
        let asked = self
            .requester()
            .request(subject, GET_RESPONSE, request.encode(), trace::headers(), timeout)
            .await;
        let answer = asked.map_err(|error| LookupError::Unavailable(error.to_string()))?;
        let response = EndpointGetResponse::decode(&answer.payload)
            .map_err(|error| LookupError::Unavailable(error.to_string()))?;
        match (response.status_code, response.app_name) {
            (200, Some(name)) => {
                ApplicationName::parse(&name).map_err(|error| LookupError::Unavailable(error.to_string()))
            }
            (404, _) => Err(LookupError::Unknown),
            (code, _) => {
                let reason = response.reason_phrase.unwrap_or_default();
                Err(LookupError::Unavailable(format!("it answered {code} {reason}")))
            }
        }
    }
}
