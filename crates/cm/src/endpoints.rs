//! Asks the endpoint register (`epr`) where an endpoint belongs.

use std::time::Duration;

use ids::{ApplicationName, EndpointId, InstanceName, TenantId};
use ism::Record as _;
use ism::endpoints::{EndpointGetRequest, EndpointGetResponse, GET_REQUEST, GET_RESPONSE};
use runtime::Context;

use crate::error::Error;

/// The service instance that registers endpoints.
const PROVIDER: &str = "epr";

/// Asks about endpoints. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Endpoints {
    context: Context,
    provider: InstanceName,
    timeout: Duration,
}

impl Endpoints {
    pub(crate) fn new(context: Context, timeout: Duration) -> Result<Self, ids::InvalidId> {
        Ok(Self { context, provider: InstanceName::parse(PROVIDER)?, timeout })
    }

    /// The application of the tenant's endpoint.
    pub(crate) async fn application_of(
        &self,
        correlation_id: &str,
        tenant: &TenantId,
        endpoint_id: &EndpointId,
    ) -> Result<ApplicationName, Error> {
        let request = EndpointGetRequest {
            correlation_id: correlation_id.to_owned(),
            timestamp: runtime::now_ms(),
            timeout: i64::try_from(self.timeout.as_millis()).unwrap_or(i64::MAX),
            tenant_id: tenant.to_string(),
            endpoint_id: endpoint_id.to_string(),
        };
        let unavailable = |reason: String| Error::EndpointsUnavailable(reason);
        let answer = self
            .context
            .requester()
            .request(
                GET_REQUEST.service(&self.provider),
                GET_RESPONSE,
                request.encode(),
                runtime::trace::headers(),
                self.timeout,
            )
            .await
            .map_err(|error| unavailable(error.to_string()))?;
        let response =
            EndpointGetResponse::decode(&answer.payload).map_err(|error| unavailable(error.to_string()))?;
        match (response.status_code, response.app_name) {
            (200, Some(name)) => Ok(ApplicationName::parse(&name)?),
            (404, _) => Err(Error::UnknownEndpoint(endpoint_id.clone())),
            (code, _) => {
                let reason = response.reason_phrase.unwrap_or_default();
                Err(unavailable(format!("it answered {code} {reason}")))
            }
        }
    }

    /// Checks that the endpoint exists for the tenant, in the application.
    pub(crate) async fn check(
        &self,
        correlation_id: &str,
        tenant: &TenantId,
        endpoint_id: &EndpointId,
        application: &ApplicationName,
    ) -> Result<(), Error> {
        let owner = self.application_of(correlation_id, tenant, endpoint_id).await?;
        if owner == *application {
            return Ok(());
        }
        let (endpoint_id, application) = (endpoint_id.clone(), application.clone());
        Err(Error::OtherApplication { endpoint_id, application, owner: owner.to_string() })
    }
}
