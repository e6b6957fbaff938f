//! Which application an endpoint belongs to, as the endpoint register (`epr`) has it.

use std::sync::Arc;
use std::time::Duration;

use ids::{ApplicationName, EndpointId, TenantId};
use quick_cache::sync::Cache;
use runtime::{Context, LookupError};
use tokio::time::Instant;

/// Endpoints that are kept; the least used go first.
const KEPT_MAX: usize = 10_000;
/// After this time the register is asked again, in case the endpoint was removed. What does not exist is never kept.
const FRESH: Duration = Duration::from_secs(30);
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// Why an endpoint cannot be used; the message is for the caller of the REST interface.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EndpointError {
    #[error("the endpoint {0} does not exist; register it first")]
    Unknown(EndpointId),
    #[error("the endpoint {0} does not exist in the application {1}: it belongs to another one")]
    OtherApplication(EndpointId, ApplicationName),
    #[error("the endpoint register cannot be asked now: {0}; try again")]
    Unavailable(String),
}

/// Asks about endpoints. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Endpoints {
    context: Context,
    kept: Arc<Cache<(TenantId, EndpointId), Kept>>,
}

#[derive(Clone)]
struct Kept {
    app_name: ApplicationName,
    until: Instant,
}

impl Endpoints {
    pub(crate) fn new(context: Context) -> Self {
        Self { context, kept: Arc::new(Cache::new(KEPT_MAX)) }
    }

    /// Checks that the tenant has the endpoint, in the application.
    pub(crate) async fn check(
        &self,
        correlation_id: &str,
        tenant: &TenantId,
        endpoint_id: &EndpointId,
        application: &ApplicationName,
    ) -> Result<(), EndpointError> {
        let key = (tenant.clone(), endpoint_id.clone());
        let fresh = self.kept.get(&key).filter(|kept| Instant::now() < kept.until);
        let app_name = match fresh {
            Some(kept) => kept.app_name,
            None => {
                let asked =
                    self.context.application_of(correlation_id, tenant, endpoint_id, ASK_TIMEOUT).await;
                let app_name = asked.map_err(|error| match error {
                    LookupError::Unknown => EndpointError::Unknown(endpoint_id.clone()),
                    LookupError::Unavailable(reason) => EndpointError::Unavailable(reason),
                })?;
                let kept = Kept { app_name: app_name.clone(), until: Instant::now() + FRESH };
                self.kept.insert(key, kept);
                app_name
            }
        };
        if app_name == *application {
            Ok(())
        } else {
            Err(EndpointError::OtherApplication(endpoint_id.clone(), application.clone()))
        }
    }
}
