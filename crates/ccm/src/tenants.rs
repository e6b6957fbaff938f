//! What a tenant leaves behind when it goes (21/TLE).

use std::sync::Arc;
use std::time::Duration;

use ids::TenantId;
use ism::Record as _;
use ism::tle::UnregisteredEvent;
use runtime::{Context, Subscription};

use crate::registry::Registry;

/// Pause before another attempt while the database is away.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Removes the credentials and authorities of tenants that go, for as long as the service runs.
pub(crate) async fn follow(
    context: Context,
    registry: Arc<Registry>,
    mut events: Subscription,
) -> anyhow::Result<()> {
    let stopping = context.stopping();
    while let Some(message) = events.next().await {
        let event = match UnregisteredEvent::decode(&message.payload) {
            Ok(event) => event,
            Err(error) => {
                tracing::warn!(%error, subject = %message.subject, "an event could not be read");
                continue;
            }
        };
        let Ok(tenant) = TenantId::parse(&event.tenant_id) else { continue };
        while let Err(error) = registry.delete_tenant(&tenant, &event.correlation_id).await {
            tracing::error!(
                %tenant, error = &error as &dyn std::error::Error,
                "the credentials of a tenant that is no more could not be removed; trying again"
            );
            tokio::select! {
                () = tokio::time::sleep(RETRY_AFTER) => {}
                () = stopping.cancelled() => return Ok(()),
            }
        }
        tracing::info!(%tenant, "removed the credentials of a tenant that is no more");
    }
    Ok(())
}
