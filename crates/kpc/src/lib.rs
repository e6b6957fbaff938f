//! `kpc`, the gateway: devices speak 1/KP over MQTT and HTTP, extensions 4/ESP over NATS.
//!
//! A device's message is looked up (`relay`: application version, extension, token), handed to its extension and
//! acknowledged when that has answered. The gateway keeps nothing durable. What it knows is asked for and kept for a
//! while: extensions in `registry`, tokens in `identity`, live connections in `connections`.
//!
//! | way | files |
//! |---|---|
//! | device → extension | `mqtt/publish` or `http` → `uplink` → `relay` → NATS |
//! | extension → device | NATS → `downlink` → `outbox` → `mqtt/drain` |
//! | replica ↔ replica | `sharing` (endpoints), `takeover` (clients), `downlink` (responses) |

mod config;
mod connection;
mod connections;
mod downlink;
mod failure;
mod gateway;
mod http;
mod identity;
mod limits;
mod memory;
mod metrics;
mod mqtt;
mod notices;
mod outbox;
mod registry;
mod relay;
mod shards;
mod sharing;
mod takeover;
mod uplink;
mod upload;
mod wills;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt as _;
use ids::EndpointId;
use ism::ecap::EndpointTokenRevokedEvent;
use ism::{Record as _, ecap, elce, esp, session};
use runtime::{Applications, Context};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use config::{Config, Limits, Mqtt, Tokens};

use connections::Connections;
use downlink::Downlink;
use gateway::Gateway;
use identity::Identities;
use limits::TenantRates;
use memory::Memory;
use metrics::Metrics;
use notices::Notices;
use outbox::CloseReason;
use registry::Registry;
use relay::{CorrelationIds, Relay};
use takeover::News;

/// The gateway service.
#[derive(Debug)]
pub struct Kpc;

impl runtime::Service for Kpc {
    const NAME: &'static str = "kpc";

    type Config = Config;

    fn check(config: &Config) -> Vec<(&'static str, String)> {
        config.faults()
    }

    async fn start(config: Config, context: Context) -> anyhow::Result<()> {
        start(config, context).await.map(drop)
    }
}

async fn start(config: Config, context: Context) -> anyhow::Result<Arc<Gateway>> {
    // Notices and events go out until the last connection has ended, after everything else has stopped. Guards, because
    // they end also when the start or the server fails: nothing comes any more then.
    let stopped = CancellationToken::new();
    let notified = CancellationToken::new();
    let (stop, last) = (stopped.clone().drop_guard(), notified.clone().drop_guard());
    let gateway = build(config, &context, &notified).await?;
    follow(&gateway, &context).await?;
    context.mount(http::router(gateway.clone()));
    let server = mqtt::serve(gateway.clone()).await?;
    tracing::info!(address = %server.address(), "serving MQTT");
    let connectivity = gateway.clone();
    context.task(async move {
        connectivity.publish_connectivity(stopped).await;
        drop(last);
    });
    context.spawn("serve MQTT", serve_until_stopped(gateway.clone(), server, stop));
    Ok(gateway)
}

async fn build(
    config: Config,
    context: &Context,
    notified: &CancellationToken,
) -> anyhow::Result<Arc<Gateway>> {
    let metrics = Arc::new(Metrics::new());
    let (notices, publish) = Notices::new(context.nats().clone(), metrics.clone(), notified.clone());
    context.task(publish);
    let registry = Arc::new(Registry::default());
    let limits = Arc::new(config.limits.clone());
    let relay = Relay {
        requester: context.requester().clone(),
        applications: Applications::new(context).await?,
        registry: registry.clone(),
        identities: Identities::new(
            context.requester().clone(),
            config.tokens.clone(),
            limits.messages_per_second_per_endpoint,
            metrics.clone(),
        ),
        payload_bytes_max: usize::try_from(limits.payload_bytes)?,
        correlation_ids: CorrelationIds::new(),
    };
    let (client, stopping) = (context.nats().clone(), context.stopping());
    context.task(async move { registry.follow(client, stopping).await });
    Ok(Arc::new(Gateway {
        config,
        memory: Memory::new(limits.in_flight_bytes),
        tenants: TenantRates::new(limits.messages_per_second_per_tenant),
        instance: context.instance().clone(),
        replica: context.replica().clone(),
        relay,
        connections: Connections::new(limits, metrics.clone()),
        connectivity: sharing::Connectivity::default(),
        wills: wills::Wills::default(),
        notices,
        metrics,
        in_flight: AtomicUsize::new(0),
        draining: CancellationToken::new(),
        runtime: tokio::runtime::Handle::current(),
        context: context.clone(),
    }))
}

/// Follows everything that NATS brings beside the answers to our own requests.
async fn follow(gateway: &Arc<Gateway>, context: &Context) -> anyhow::Result<()> {
    let downlink = Arc::new(Downlink::new(gateway.clone()));
    let mut unmatched = context.requester().unmatched();
    let to_replica = downlink.clone();
    let stopping = context.stopping();
    context.spawn("deliver to this replica", async move {
        loop {
            tokio::select! {
                message = unmatched.next() => to_replica.to_replica(message.context("another part took this over")?),
                () = stopping.cancelled() => return Ok(()),
            }
        }
    });
    let pushes = esp::EXTENSION_DATA.service(context.instance());
    hear(context, "deliver to devices", pushes, move |message| downlink.to_service(message)).await?;

    let instance = context.instance();
    let to = gateway.clone();
    let connected = elce::CONNECTED.of(instance);
    hear(context, "hear of endpoints that come", connected, move |event| {
        to.hear_connected(&event.payload, false)
    })
    .await?;
    let to = gateway.clone();
    let announced = gateway.announcement_subject();
    hear(context, "hear of endpoints elsewhere", announced, move |event| {
        to.hear_connected(&event.payload, true)
    })
    .await?;
    let to = gateway.clone();
    let disconnected = elce::DISCONNECTED.of(instance);
    hear(context, "hear of endpoints that go", disconnected, move |event| {
        to.hear_disconnected(&event.payload)
    })
    .await?;
    let to = gateway.clone();
    let clients = session::CLIENT_CONNECTED.of(instance);
    hear(context, "hear of clients that connect", clients, move |event| {
        to.hear_client(&event.payload, News::Fresh)
    })
    .await?;
    let to = gateway.clone();
    let announced = gateway.client_announcement_subject();
    hear(context, "hear of clients elsewhere", announced, move |event| {
        to.hear_client(&event.payload, News::Announced)
    })
    .await?;
    let to = gateway.clone();
    let revoked = ecap::EP_TOKEN_REVOKED.of_any();
    hear(context, "hear of revoked tokens", revoked, move |event| revoke(&to, &event.payload)).await?;
    context.spawn("recover after a lost connection", gateway.clone().recover(context.stopping()));
    Ok(())
}

/// Handles every message of a subject, in order, until the service stops.
async fn hear(
    context: &Context,
    name: &'static str,
    subject: String,
    handle: impl Fn(async_nats::Message) + Send + 'static,
) -> anyhow::Result<()> {
    let mut messages = context.subscribe(subject, None).await?;
    context.spawn(name, async move {
        while let Some(message) = messages.next().await {
            handle(message);
        }
        Ok(())
    });
    Ok(())
}

fn revoke(gateway: &Gateway, payload: &bytes::Bytes) {
    let event = match EndpointTokenRevokedEvent::decode(payload) {
        Ok(event) => event,
        Err(error) => return tracing::warn!(%error, "a revocation event cannot be read"),
    };
    gateway.relay.identities.revoke(&event.endpoint_id, &event.token_ids);
    if let Ok(endpoint) = EndpointId::parse(&event.endpoint_id) {
        gateway.connections.revoke(&endpoint, &event.token_ids);
    }
}

/// Serves until the service stops, and then in order: no new connections, no new messages, the answers to those that
/// were taken, the farewell to the clients, the last events.
async fn serve_until_stopped(
    gateway: Arc<Gateway>,
    mut server: mqtt::Server,
    stop: DropGuard,
) -> anyhow::Result<()> {
    let stopping = gateway.context.stopping();
    tokio::select! {
        () = stopping.cancelled() => {}
        () = server.ended() => anyhow::bail!("the MQTT server ended before its time"),
    }
    gateway.draining.cancel();
    server.pause().await;
    let patience = Duration::from_millis(gateway.config.drain_timeout_ms);
    if !settled(patience, || gateway.in_flight.load(Ordering::Acquire) == 0).await {
        let left = gateway.in_flight.load(Ordering::Acquire);
        tracing::warn!(
            left,
            "stopping before all messages were answered; their clients will send them again"
        );
    }
    gateway.connections.finish_all(CloseReason::Stopping);
    settled(mqtt::CLOSE_PATIENCE, || gateway.connections.count() == 0).await;
    server.stop().await;
    drop(stop);
    Ok(())
}

/// Waits until something holds, for so long at most; returns whether it does.
async fn settled(patience: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = tokio::time::Instant::now() + patience;
    while !holds() {
        if tokio::time::Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    true
}
