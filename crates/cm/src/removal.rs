//! Endpoints (9/ELCE) and tenants (21/TLE) that go take their tokens with them.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use ids::{EndpointId, TenantId};
use ism::{Record as _, elce, tle};
use runtime::{Context, Subscription};
use tokio::sync::Notify;

use crate::error::Error;
use crate::registry::Registry;

/// How often tenants to remove are looked for, beside being told.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Pauses between two attempts while the database is away.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Between two batches others may use the database.
const BATCH_PAUSE: Duration = Duration::from_millis(50);

/// Starts to follow both.
pub(crate) async fn start(context: &Context, registry: &Arc<Registry>) -> anyhow::Result<()> {
    let queue = Some(context.instance().as_str());
    let endpoints = context.subscribe(elce::UNREGISTERED.of_any(), queue).await?;
    let tenants = context.subscribe(tle::UNREGISTERED.of_any(), queue).await?;
    let wake = Arc::new(Notify::new());
    let follower = Follower { context: context.clone(), registry: registry.clone(), wake };
    context.spawn("follow deleted endpoints", follower.clone().endpoints(endpoints));
    context.spawn("follow unregistered tenants", follower.clone().tenants(tenants));
    context.spawn("remove tokens of unregistered tenants", follower.remove());
    Ok(())
}

/// What an event asks to remove.
enum Removal {
    /// The tokens of an endpoint that were made by then.
    Endpoint { correlation_id: String, id: EndpointId, until: DateTime<Utc> },
    /// All tokens of a tenant: remembered here, and done by and by.
    Tenant(TenantId),
}

#[derive(Clone)]
struct Follower {
    context: Context,
    registry: Arc<Registry>,
    /// There is a tenant to remove.
    wake: Arc<Notify>,
}

impl Follower {
    async fn endpoints(self, mut events: Subscription) -> anyhow::Result<()> {
        while let Some(message) = events.next().await {
            let event = match ism::UnregisteredEvent::decode(&message.payload) {
                Ok(event) => event,
                Err(error) => {
                    tracing::warn!(%error, "the end of an endpoint could not be read");
                    continue;
                }
            };
            let id = EndpointId::parse(&event.endpoint_id).ok();
            let Some((id, until)) = id.zip(DateTime::from_timestamp_millis(event.timestamp)) else {
                tracing::warn!("the end of an endpoint names none, or no time");
                continue;
            };
            self.insist(Removal::Endpoint { correlation_id: event.correlation_id, id, until }).await;
        }
        Ok(())
    }

    async fn tenants(self, mut events: Subscription) -> anyhow::Result<()> {
        while let Some(message) = events.next().await {
            let event = match tle::UnregisteredEvent::decode(&message.payload) {
                Ok(event) => event,
                Err(error) => {
                    tracing::warn!(%error, "the end of a tenant could not be read");
                    continue;
                }
            };
            match TenantId::parse(&event.tenant_id) {
                Ok(tenant) => {
                    self.insist(Removal::Tenant(tenant)).await;
                    self.wake.notify_one();
                }
                Err(error) => tracing::warn!(%error, "the end of a tenant names none"),
            }
        }
        Ok(())
    }

    /// Removes tokens of tenants to remove: what another replica was told too, or this one before it was killed.
    async fn remove(self) -> anyhow::Result<()> {
        let stopping = self.context.stopping();
        loop {
            let pause = match self.registry.remove_some_of_tenants().await {
                Ok(true) => BATCH_PAUSE,
                Ok(false) => LOOK_EVERY,
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "tokens of an unregistered tenant are removed later");
                    LOOK_EVERY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.wake.notified() => {}
                () = stopping.cancelled() => return Ok(()),
            }
        }
    }

    async fn attempt(&self, removal: &Removal) -> Result<(), Error> {
        match removal {
            Removal::Endpoint { correlation_id, id, until } => {
                self.registry.endpoint_unregistered(correlation_id, id, *until).await
            }
            Removal::Tenant(tenant) => self.registry.store().remember_removal(tenant).await,
        }
    }

    /// Tries until it is done or the service stops: an event comes once.
    async fn insist(&self, removal: Removal) {
        let stopping = self.context.stopping();
        let mut pause = RETRY;
        while let Err(error) = self.attempt(&removal).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "tokens are not removed yet; it is tried again"
            );
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY_MAX),
                () = stopping.cancelled() => return,
            }
        }
    }
}
