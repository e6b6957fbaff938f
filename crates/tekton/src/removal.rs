//! What is deleted for good: tells it more than once, and follows tenants that go (21/TLE).

use std::time::Duration;

use ids::TenantId;
use ism::tle::UnregisteredEvent;
use ism::{Record as _, tle};
use runtime::{Context, Subscription};

use crate::events::Events;
use crate::store::Store;

/// How often deletions that are due are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Pauses between two attempts to delete what a tenant had.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Starts both.
pub(crate) async fn start(context: &Context, store: &Store, events: &Events) -> anyhow::Result<()> {
    let queue = context.instance().as_str();
    let gone = context.subscribe(tle::UNREGISTERED.of_any(), Some(queue)).await?;
    context.spawn("remove what tenants had", follow(gone, context.clone(), store.clone(), events.clone()));
    context.spawn("tell deletions again", tell(context.clone(), store.clone(), events.clone()));
    Ok(())
}

async fn follow(
    mut gone: Subscription,
    context: Context,
    store: Store,
    events: Events,
) -> anyhow::Result<()> {
    while let Some(message) = gone.next().await {
        let event = match UnregisteredEvent::decode(&message.payload) {
            Ok(event) => event,
            Err(error) => {
                tracing::warn!(%error, "the end of a tenant could not be read");
                continue;
            }
        };
        match TenantId::parse(&event.tenant_id) {
            Ok(tenant) => remove(&context, &store, &events, &event.correlation_id, &tenant).await,
            Err(error) => tracing::warn!(%error, "the end of a tenant names none"),
        }
    }
    Ok(())
}

/// Removes all that a tenant has, until it is done or the service stops. The event comes more than once: then there is
/// nothing to do, or what was made since by somebody who had not heard of the end.
async fn remove(context: &Context, store: &Store, events: &Events, correlation_id: &str, tenant: &TenantId) {
    let stopping = context.stopping();
    let mut pause = RETRY;
    let (deleted, was_configured) = loop {
        match store.delete_tenant(tenant).await {
            Ok(deleted) => break deleted,
            Err(error) => {
                tracing::warn!(%tenant, error = &error as &dyn std::error::Error, "what a tenant had is not removed yet");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY_MAX),
            () = stopping.cancelled() => return,
        }
    };
    if deleted.is_empty() && !was_configured {
        return;
    }
    tracing::info!(%tenant, applications = deleted.len(), "what an unregistered tenant had is removed");
    for deletion in deleted {
        events.deleted(correlation_id, deletion).await;
    }
    events.tenant_deleted(correlation_id, tenant).await;
}

async fn tell(context: Context, store: Store, events: Events) -> anyhow::Result<()> {
    let stopping = context.stopping();
    loop {
        if let Err(error) = tell_due(&context, &store, &events).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "deletions cannot be told again now; it is tried later");
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = stopping.cancelled() => return Ok(()),
        }
    }
}

async fn tell_due(context: &Context, store: &Store, events: &Events) -> Result<(), crate::error::Error> {
    for (number, deletion) in store.take_due_deletions().await?.into_iter().enumerate() {
        let correlation_id = format!("{}-{:x}-{number}", context.replica(), runtime::now_ms());
        events.deleted(&correlation_id, deletion).await;
    }
    store.forget_deletions().await
}
