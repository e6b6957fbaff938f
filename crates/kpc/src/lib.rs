//! `kpc`, the gateway: devices speak 1/KP over MQTT and HTTP, extensions 4/ESP over NATS.
//!
//! A device's message is looked up (`relay`: application version, extension, token), handed to its extension and
//! acknowledged when that has answered. The gateway keeps nothing durable. What it knows is asked for and kept for a
//! while: extensions in `registry`, tokens in `identity`, live connections in `connections`.
//!
//! Who may connect is asked in `clients`; what tenants demand of clients is in `switches`; what is slowed down because it
//! looks like guessing in `throttle`. Sessions end with what they live on: tokens (`connections`), credentials
//! (`credentials`), their tenant's demands (`switches`); what was missed while NATS was away is made up for in `recheck`.
//!
//! | way | files |
//! |---|---|
//! | device → extension | `mqtt/publish` or `http` → `uplink` → `relay` → NATS |
//! | extension → device | NATS → `downlink` → `outbox` → `mqtt/drain` |
//! | client ↔ extension, outside of 1/KP | `mqtt/publish`, `mqtt/subscribe` → `topics` → NATS → `topics` → `outbox` |
//! | replica ↔ replica | `sharing` (endpoints), `takeover` (clients), `downlink` (responses) |

mod addresses;
mod anchors;
mod announcements;
mod authorities;
mod certificates;
mod clients;
mod config;
mod connection;
mod connections;
mod contract;
mod credentials;
mod downlink;
mod endpoints;
mod failure;
mod gateway;
mod heartbeat;
mod http;
mod identity;
mod limits;
mod login;
mod memory;
mod metrics;
mod mqtt;
mod notices;
mod outbox;
mod peer;
mod places;
mod recheck;
mod registry;
mod relay;
mod revocations;
mod shards;
mod sharing;
mod subscribers;
mod switches;
mod takeover;
mod throttle;
mod tls_port;
mod topic_turns;
mod topics;
mod traffic;
mod uplink;
mod upload;
mod web_socket;
mod wills;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use futures::{FutureExt as _, StreamExt as _};
use ids::EndpointId;
use ism::cap::{self, ClientCredentialsRevokedEvent};
use ism::ecap::EndpointTokenRevokedEvent;
use ism::{Record as _, ecap, elce, esp, session};
use runtime::{Applications, Context, Description, Subjects, Tenants};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use certificates::ROUTES;
pub use config::{Clients, Config, Limits, Mqtt, Throttle, Tls, TlsPort, Tokens, Traffic, Ws, Wss};

use addresses::Addresses;
use authorities::Authorities;
use connections::Connections;
use downlink::Downlink;
use gateway::Gateway;
use identity::Identities;
use limits::TenantRates;
use memory::Memory;
use metrics::Metrics;
use notices::Notices;
use outbox::CloseReason;
use places::Places;
use registry::Registry;
use relay::{CorrelationIds, Relay};
use takeover::News;

/// Revocations of tokens that are handled together.
const REVOCATIONS_AT_ONCE: usize = 1_000;

/// The gateway service.
#[derive(Debug)]
pub struct Kpc;

impl runtime::Service for Kpc {
    const NAME: &'static str = "kpc";

    type Config = Config;

    const DESCRIPTION: Option<Description> = Some(contract::DESCRIPTION);

    fn subjects() -> Subjects {
        contract::subjects()
    }

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
    let certificates = load_certificates(&config, &context).await?;
    let gateway = build(config, &context, &notified).await?;
    follow(&gateway, &context).await?;
    if certificates.is_some() && gateway.config.mqtt.tls.client_certificates {
        follow_authorities(&gateway.authorities, &context).await?;
    }
    context.mount(http::router(gateway.clone()));
    context.mount(certificates::router(certificates.clone()));
    let server = mqtt::serve(gateway.clone(), certificates).await?;
    for (transport, address) in server.addresses() {
        tracing::info!(transport = transport.name(), %address, "serving MQTT");
    }
    if let Some(listen) = gateway.config.tls_port.listen {
        open_tls_port(&gateway, listen, server.handover(), &context)?;
    }
    let telling = gateway.clone();
    context.task(async move {
        tokio::join!(
            telling.publish_connectivity(stopped.clone()),
            telling.report_traffic(stopped.clone()),
            telling.beat(stopped),
        );
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
    let throttle = Arc::new(throttle::Throttle::new(config.throttle.clone(), metrics.clone()));
    let clients = Arc::new(clients::Clients::new(
        context.requester().clone(),
        config.clients.clone(),
        throttle.clone(),
        Tenants::new(context).await?,
        metrics.clone(),
    ));
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
        clients: clients.clone(),
        throttle,
        payload_bytes_max: usize::try_from(limits.payload_bytes)?,
        correlation_ids: CorrelationIds::new(),
    };
    let (client, stopping) = (context.nats().clone(), context.stopping());
    context.task(async move { registry.follow(client, stopping).await });
    let connectivity = Arc::new(sharing::Connectivity::default());
    Ok(Arc::new(Gateway {
        config,
        memory: Memory::new(limits.in_flight_bytes),
        waits: Places::new(limits.waits, limits.waits_per_endpoint.into()),
        tenants: TenantRates::new(limits.messages_per_second_per_tenant),
        instance: context.instance().clone(),
        replica: context.replica().clone(),
        relay,
        clients,
        addresses: Addresses::new(limits.connecting_per_address),
        authorities: Arc::new(Authorities::new()),
        connections: Connections::new(limits, metrics.clone(), connectivity.clone()),
        connectivity,
        wills: wills::Wills::default(),
        notices,
        metrics,
        in_flight: AtomicUsize::new(0),
        draining: CancellationToken::new(),
        runtime: tokio::runtime::Handle::current(),
        context: context.clone(),
    }))
}

/// Serves MQTT and HTTPS at one port, and with HTTPS MQTT over WebSocket.
fn open_tls_port(
    gateway: &Arc<Gateway>,
    listen: SocketAddr,
    handover: mqtt::Handover,
    context: &Context,
) -> anyhow::Result<()> {
    let port = tls_port::open(gateway.clone(), listen, handover.clone(), context.https().cloned())?;
    let waiting = port.waiting();
    tracing::info!(address = %port.address(), https = context.https().is_some(), "serving the single TLS port");
    if gateway.config.mqtt.wss.enabled && context.https().is_some() {
        context.mount(web_socket::router(gateway.clone(), handover, waiting));
    }
    context.spawn("serve the single TLS port", port.serve(context.stopping()));
    Ok(())
}

/// The certificates of the gateway's TLS listeners, which follow their files; none when none are configured.
async fn load_certificates(
    config: &Config,
    context: &Context,
) -> anyhow::Result<Option<Arc<tls::Certificates>>> {
    let Some(files) = config.mqtt.tls.files() else { return Ok(None) };
    let certificates = tls::Certificates::load(files).await.context("kpc.mqtt.tls")?;
    let (following, stopping) = (certificates.clone(), context.stopping());
    context.task(async move { following.follow(stopping).await });
    Ok(Some(certificates))
}

/// Keeps the authorities that may sign clients' certificates.
async fn follow_authorities(authorities: &Arc<Authorities>, context: &Context) -> anyhow::Result<()> {
    let to = authorities.clone();
    let changed = ism::authorities::AUTHORITIES_CHANGED.of_any();
    hear(context, "hear of changed authorities", changed, move |_| to.read_again()).await?;
    authorities.read_first(context).await;
    let (authorities, following) = (authorities.clone(), context.clone());
    context.task(async move { authorities.follow(&following).await });
    Ok(())
}

/// Follows everything that NATS brings beside the answers to our own requests.
async fn follow(gateway: &Arc<Gateway>, context: &Context) -> anyhow::Result<()> {
    let (downlink, announcing) = Downlink::new(gateway.clone(), context);
    let downlink = Arc::new(downlink);
    context.task(announcing);
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
    let forwarded = esp::FORWARDED_DATA.service(context.instance());
    let to = downlink.clone();
    hear(context, "deliver what is forwarded", forwarded, move |message| to.forwarded(&message)).await?;
    // In the names of extensions, and RFC 4's own.
    for (name, subject) in [
        ("deliver to devices", esp::EXTENSION_DATA.by_any(context.instance())),
        ("deliver to devices, from RFC 4's subject", esp::EXTENSION_DATA.service(context.instance())),
    ] {
        let to = downlink.clone();
        hear(context, name, subject, move |message| to.to_service(message)).await?;
    }

    let (to, messages) = (downlink, ism::topics::MESSAGE.by_any(context.instance()));
    hear(context, "deliver on topics of extensions", messages, move |message| to.to_topic(message)).await?;

    for (name, subject, handle) in heard(gateway, context) {
        let to = gateway.clone();
        hear(context, name, subject, move |message| handle(&to, &message.payload)).await?;
    }
    hear_of_revoked_tokens(gateway, context).await?;
    let changes = gateway.clients.changes();
    let stopping = context.stopping();
    context.spawn("follow the demands of tenants", gateway.clone().follow_switches(changes, stopping));
    context.spawn("end expired sessions", gateway.clone().end_expired(context.stopping()));
    context.spawn("recover after a lost connection", gateway.clone().recover(context.stopping()));
    Ok(())
}

/// What is done with the payload of a message.
type Handle = fn(&Arc<Gateway>, &bytes::Bytes);

/// The events that the gateway hears: a name, the subject, and what is done then.
fn heard(gateway: &Arc<Gateway>, context: &Context) -> [(&'static str, String, Handle); 7] {
    let instance = context.instance();
    [
        ("hear of endpoints that come", elce::CONNECTED.of(instance), |to, event| {
            to.hear_connected(event, false)
        }),
        ("hear of endpoints elsewhere", gateway.announcement_subject(), |to, event| {
            to.hear_connected(event, true)
        }),
        ("hear of endpoints that go", elce::DISCONNECTED.of(instance), |to, event| {
            to.hear_disconnected(event)
        }),
        ("hear of clients that connect", session::CLIENT_CONNECTED.of(instance), |to, event| {
            to.hear_client(event, News::Fresh)
        }),
        ("hear of clients elsewhere", gateway.client_announcement_subject(), |to, event| {
            to.hear_client(event, News::Announced)
        }),
        ("hear of revoked logins", cap::BASIC_REVOKED.of_any(), |to, event| revoke_credentials(to, event)),
        ("hear of revoked certificates", cap::CERTIFICATE_REVOKED.of_any(), |to, event| {
            revoke_credentials(to, event)
        }),
    ]
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

/// Handles revocations of tokens, all that are there at once: with an application all of its tokens may go, and whatever
/// takes long for each of them would let the last ones live long.
async fn hear_of_revoked_tokens(gateway: &Arc<Gateway>, context: &Context) -> anyhow::Result<()> {
    let mut messages = context.subscribe(ecap::EP_TOKEN_REVOKED.of_any(), None).await?;
    let gateway = gateway.clone();
    context.spawn("hear of revoked tokens", async move {
        while let Some(first) = messages.next().await {
            let mut events = Vec::from_iter(read_revocation(&first));
            while events.len() < REVOCATIONS_AT_ONCE
                && let Some(Some(next)) = messages.next().now_or_never()
            {
                events.extend(read_revocation(&next));
            }
            gateway.relay.identities.revoke(&events);
            for event in &events {
                if let Ok(endpoint) = EndpointId::parse(&event.endpoint_id) {
                    gateway.connections.revoke(&endpoint, &event.token_ids);
                }
            }
        }
        Ok(())
    });
    Ok(())
}

fn read_revocation(message: &async_nats::Message) -> Option<EndpointTokenRevokedEvent> {
    EndpointTokenRevokedEvent::decode(&message.payload)
        .inspect_err(|error| tracing::warn!(%error, "a revocation event cannot be read"))
        .ok()
}

fn revoke_credentials(gateway: &Gateway, payload: &bytes::Bytes) {
    match ClientCredentialsRevokedEvent::decode(payload) {
        Ok(event) => {
            // In this order: a client that is connecting now finds one or is found by the other.
            gateway.clients.revoked(&event.credentials_id);
            gateway.connections.revoke_credentials(&event.credentials_id);
        }
        Err(error) => tracing::warn!(%error, "a revocation event cannot be read"),
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
