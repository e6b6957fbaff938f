//! Asks the endpoint register (`epr`) where an endpoint belongs.

use std::time::Duration;

use ids::{ApplicationName, EndpointId, TenantId};
use runtime::{Context, LookupError};

use crate::error::Error;

/// Asks about endpoints. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Endpoints {
    context: Context,
    timeout: Duration,
}

impl Endpoints {
    pub(crate) fn new(context: Context, timeout: Duration) -> Self {
        Self { context, timeout }
    }

    /// The application of the tenant's endpoint.
    pub(crate) async fn application_of(
        &self,
        correlation_id: &str,
        tenant: &TenantId,
        endpoint_id: &EndpointId,
    ) -> Result<ApplicationName, Error> {
        let asked = self.context.application_of(correlation_id, tenant, endpoint_id, self.timeout).await;
        asked.map_err(|error| match error {
            LookupError::Unknown => Error::UnknownEndpoint(endpoint_id.clone()),
            LookupError::Unavailable(reason) => Error::EndpointsUnavailable(reason),
        })
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
