//! Follows what other services tell: which version a device reports (9/ELCE), which applications (17/SCMP) and tenants
//! (21/TLE) are gone.

use std::collections::BTreeMap;

use async_nats::Message;
use futures::FutureExt as _;
use ids::{AppVersionName, ApplicationName, EndpointId, TenantId};
use ism::elce::{CONNECTED, ConnectedEvent};
use ism::scmp::{self, BroadcastConfigurationUpdateEvent};
use ism::{Record as _, tle};
use runtime::{Context, Subscription};

use crate::error::Error;
use crate::removal::Remover;
use crate::store::{Purge, Store};
use crate::updates::Updates;

/// Endpoints that are compared at once.
const ENDPOINTS_MAX: usize = 1_000;
/// Pauses between attempts to note what is gone.
const RETRY: std::time::Duration = std::time::Duration::from_secs(1);

/// Starts to follow.
pub(crate) async fn start(
    context: &Context,
    store: &Store,
    updates: &Updates,
    remover: &Remover,
) -> anyhow::Result<()> {
    // One replica is enough for what devices report: the next connection reports it again.
    let queue = context.instance().as_str();
    let connected = context.subscribe(CONNECTED.of_any(), Some(queue)).await?;
    let (store, updates) = (store.clone(), updates.clone());
    context.spawn("follow the versions of connected endpoints", async move {
        follow_versions(connected, &store, &updates).await;
        Ok(())
    });
    // Every replica notes what is gone: the same order given twice is one.
    let applications = context.subscribe(scmp::DELETED.of_any(), None).await?;
    let tenants = context.subscribe(tle::UNREGISTERED.of_any(), None).await?;
    context.spawn("delete endpoints of deleted applications", {
        let (context, remover) = (context.clone(), remover.clone());
        async move {
            follow_purges(applications, deleted_application, &context, &remover).await;
            Ok(())
        }
    });
    context.spawn("delete endpoints of unregistered tenants", {
        let (context, remover) = (context.clone(), remover.clone());
        async move {
            follow_purges(tenants, unregistered_tenant, &context, &remover).await;
            Ok(())
        }
    });
    Ok(())
}

async fn follow_purges(
    mut events: Subscription,
    read: fn(&Message) -> Option<Purge>,
    context: &Context,
    remover: &Remover,
) {
    let stopping = context.stopping();
    while let Some(message) = events.next().await {
        let Some(purge) = read(&message) else { continue };
        while let Err(error) = remover.order_purge(&purge).await {
            tracing::warn!(
                error = error.as_dyn(),
                ?purge,
                "what is gone cannot be noted yet; it is tried again"
            );
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = stopping.cancelled() => return,
            }
        }
    }
}

/// The application of an event that says that it is deleted. Deleted versions leave their endpoints.
fn deleted_application(message: &Message) -> Option<Purge> {
    let event = BroadcastConfigurationUpdateEvent::decode(&message.payload)
        .inspect_err(|error| tracing::warn!(%error, "a configuration event could not be read"))
        .ok()?;
    if event.app_ver_name.is_some() {
        return None;
    }
    let tenant = TenantId::parse(event.tenant_id.as_deref()?).ok()?;
    let application = ApplicationName::parse(event.app_name.as_deref()?).ok()?;
    Some(Purge { tenant, application: Some(application) })
}

fn unregistered_tenant(message: &Message) -> Option<Purge> {
    let event = tle::UnregisteredEvent::decode(&message.payload)
        .inspect_err(|error| tracing::warn!(%error, "a tenant event could not be read"))
        .ok()?;
    Some(Purge { tenant: TenantId::parse(&event.tenant_id).ok()?, application: None })
}

/// Versions that devices report, and the correlation ids of the events.
type Reported = BTreeMap<String, (String, String)>;

async fn follow_versions(mut events: Subscription, store: &Store, updates: &Updates) {
    while let Some(first) = events.next().await {
        let mut reported = Reported::new();
        gather(&first, &mut reported);
        // When thousands connect at once, one query serves many events.
        while reported.len() < ENDPOINTS_MAX {
            let Some(Some(message)) = events.next().now_or_never() else { break };
            gather(&message, &mut reported);
        }
        if let Err(error) = compare(&reported, store, updates).await {
            let endpoints = reported.len();
            tracing::warn!(
                error = error.as_dyn(),
                endpoints,
                "versions that devices report could not be compared"
            );
        }
    }
}

fn gather(message: &Message, reported: &mut Reported) {
    match ConnectedEvent::decode(&message.payload) {
        Ok(event) => {
            let of = |version| (version, event.correlation_id.clone());
            reported
                .extend(event.endpoints.into_iter().map(|(endpoint_id, version)| (endpoint_id, of(version))));
        }
        Err(error) => tracing::warn!(%error, "a connected event could not be read"),
    }
}

async fn compare(reported: &Reported, store: &Store, updates: &Updates) -> Result<(), Error> {
    let endpoint_ids: Vec<&str> = reported.keys().map(String::as_str).collect();
    for part in endpoint_ids.chunks(ENDPOINTS_MAX) {
        for (endpoint_id, known) in store.versions_of(part).await? {
            let Some((version, correlation_id)) = reported.get(&endpoint_id) else { continue };
            if *version == known {
                continue;
            }
            let (Ok(endpoint), Ok(version)) =
                (EndpointId::parse(&endpoint_id), AppVersionName::parse(version))
            else {
                continue;
            };
            // The version of another application: the register knows better than a device where it belongs.
            if let Err(error) = updates.app_version(correlation_id.clone(), None, endpoint, version).await {
                tracing::warn!(
                    error = error.as_dyn(),
                    endpoint_id,
                    "an endpoint keeps its version, not the one it reports"
                );
            }
        }
    }
    Ok(())
}
