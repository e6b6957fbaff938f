//! A process: services that start together, are watched together and stop in order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ids::{InstanceName, ReplicaId};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::context::Shared;
use crate::health;
use crate::service::Starter;
use crate::{
    Context, Description, Entry, Fault, Faults, NatsConfig, Requester, Settings, Subjects, access,
    description, telemetry,
};

/// The sections that belong to no single service.
const SECTIONS: [&str; 5] = ["process", "nats", "postgres", "http", telemetry::SECTION];

/// How long the connections of a service that has finished may take to close.
const LAST_WORDS_PATIENCE: Duration = Duration::from_secs(2);

/// Section `[process]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProcessConfig {
    /// How long the process keeps serving after it has said that it is not ready, so that load balancers notice, in ms.
    pub pre_stop_delay_ms: u64,
    /// How long each service may take to finish its work when it stops, in ms.
    pub stop_grace_ms: u64,
}

impl Default for ProcessConfig {
    fn default() -> Self {
        Self { pre_stop_delay_ms: 0, stop_grace_ms: 10_000 }
    }
}

/// The running services of a process.
pub struct Platform {
    config: ProcessConfig,
    http_address: SocketAddr,
    http: JoinHandle<()>,
    http_stopping: CancellationToken,
    services: Arc<Vec<Context>>,
    dispatchers: Vec<JoinSet<()>>,
    fatal: mpsc::Receiver<anyhow::Error>,
}

struct Prepared {
    process: ProcessConfig,
    nats: NatsConfig,
    postgres: store::Config,
    http: rest::Config,
    starters: Vec<(Entry, Starter)>,
}

/// Reads the configuration of the process and of every service, and reports all faults together.
fn prepare(settings: &Settings, entries: &[Entry], known: &[&'static str]) -> Result<Prepared, Faults> {
    let mut faults: Vec<Fault> = settings.faults().to_vec();
    let sections: Vec<&str> = SECTIONS.iter().chain(known).copied().collect();
    faults.extend(settings.unknown_sections(&sections));
    let mut keep = |found: Vec<Fault>| faults.extend(found);
    let process = settings.section("process").map_err(&mut keep).ok();
    let nats = settings.section("nats").map_err(&mut keep).ok();
    let postgres: Option<store::Config> = settings.section("postgres").map_err(&mut keep).ok();
    let http: Option<rest::Config> = settings.section("http").map_err(&mut keep).ok();
    settings.section::<telemetry::Config>(telemetry::SECTION).map_err(&mut keep).ok();
    let mut starters = Vec::new();
    for entry in entries {
        match (entry.prepare)(settings) {
            Ok(starter) => starters.push((*entry, starter)),
            Err(found) => faults.extend(found),
        }
    }
    faults.extend(http.iter().flat_map(rest::Config::check).map(Fault::found));
    if entries.iter().any(|entry| entry.postgres) {
        faults.extend(postgres.iter().flat_map(store::Config::check).map(Fault::found));
    }
    match (process, nats, postgres, http) {
        (Some(process), Some(nats), Some(postgres), Some(http)) if faults.is_empty() => {
            Ok(Prepared { process, nats, postgres, http, starters })
        }
        _ => Err(Faults(faults)),
    }
}

impl Platform {
    /// Reports the faults of a configuration without starting anything. `known` are the sections of services that the
    /// binary has but this process does not run.
    pub fn check(settings: &Settings, entries: &[Entry], known: &[&'static str]) -> Result<(), Faults> {
        prepare(settings, entries, known).map(drop)
    }

    /// Starts services. They stop in the given order, so name those first that depend on the others: the gateway
    /// before its extensions. `registry` holds the metrics to show.
    pub async fn start(
        settings: &Settings,
        entries: &[Entry],
        known: &[&'static str],
        registry: Option<prometheus::Registry>,
    ) -> anyhow::Result<Self> {
        let prepared = prepare(settings, entries, known)?;
        let edge = rest::Edge::bind(&prepared.http).await?;
        let http_address = edge.local_addr();
        let (fatal_sender, fatal) = mpsc::channel(16);
        let making = Making { prepared: &prepared, mounts: edge.mounts(), fatal: &fatal_sender };
        let mut dispatchers = Vec::new();
        let mut services = Vec::new();
        for (entry, _) in &prepared.starters {
            let (context, dispatcher) = making.context(entry.name, &entry.subjects()).await?;
            dispatchers.push(dispatcher);
            services.push(context);
        }
        // The last to stop: it checks the credentials of calls to all the others.
        if edge.authenticator().wants_verifier() {
            let (context, dispatcher) = making.context(access::NAME, &access::subjects()).await?;
            dispatchers.push(dispatcher);
            services.push(context);
        }
        let services = Arc::new(services);
        let http_stopping = CancellationToken::new();
        edge.mounts().add(health::router(services.clone(), registry));
        let authenticator = edge.authenticator().clone();
        let http = tokio::spawn(edge.serve(http_stopping.clone()));
        let platform = Self {
            config: prepared.process,
            http_address,
            http,
            http_stopping,
            services,
            dispatchers,
            fatal,
        };
        for (context, (entry, starter)) in platform.services.iter().zip(prepared.starters) {
            platform.start_service(context, entry.description, starter, &fatal_sender);
        }
        if authenticator.wants_verifier()
            && let Some(context) = platform.services.last()
        {
            let starter: Starter = Box::new(|context| Box::pin(start_access(context, authenticator)));
            platform.start_service(context, None, starter, &fatal_sender);
        }
        Ok(platform)
    }

    /// Starts one service beside the others: each waits by itself for what it needs.
    fn start_service(
        &self,
        context: &Context,
        description: Option<Description>,
        starter: Starter,
        fatal: &mpsc::Sender<anyhow::Error>,
    ) {
        if let Some(description) = description {
            context.spawn("announce itself", description::announce(context.clone(), description));
        }
        let (service, services, fatal) = (context.clone(), self.services.clone(), fatal.clone());
        let starting = {
            let context = context.clone();
            tokio::spawn(async move {
                context.settled().await?;
                starter(context).await
            })
        };
        context.task(async move {
            let error = match starting.await {
                Ok(Ok(())) => {
                    service.shared.started.store(true, Ordering::Release);
                    if services.iter().all(|service| service.shared.started.load(Ordering::Acquire)) {
                        service.shared.mounts.complete();
                    }
                    tracing::info!(service = service.name(), replica = %service.replica(), "started");
                    return;
                }
                Ok(Err(error)) => error,
                Err(panic) => anyhow::anyhow!(panic),
            };
            if !service.shared.stopping.is_cancelled() {
                let error = error.context(format!("service {} did not start", service.name()));
                // A full channel already holds an error that stops the process.
                drop(fatal.try_send(error));
            }
        });
    }

    /// Where HTTP is served; with port 0 in the configuration the port that was given.
    #[must_use]
    pub fn http_address(&self) -> SocketAddr {
        self.http_address
    }

    /// The contexts of the services, in order.
    #[must_use]
    pub fn services(&self) -> &[Context] {
        &self.services
    }

    /// Waits until every service serves, or for the first error.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let mut look = tokio::time::interval(Duration::from_millis(10));
        loop {
            if self.services.iter().all(|service| service.is_ready().is_ok()) {
                return Ok(());
            }
            tokio::select! {
                _ = look.tick() => {}
                Some(error) = self.fatal.recv() => return Err(error),
            }
        }
    }

    /// The first error that ends the process; waits for ever while there is none.
    pub async fn failed(&mut self) -> anyhow::Error {
        tokio::select! {
            Some(error) = self.fatal.recv() => error,
            ended = &mut self.http => match ended {
                Ok(()) => anyhow::anyhow!("the HTTP listener ended before its time"),
                Err(panic) => anyhow::anyhow!(panic),
            },
        }
    }

    /// Stops in order: not ready, no new requests, then service by service. What a service has accepted it finishes,
    /// within its grace; those that it needs for that are still running.
    pub async fn stop(self) -> anyhow::Result<()> {
        for service in self.services.iter() {
            service.shared.started.store(false, Ordering::Release);
        }
        tokio::time::sleep(Duration::from_millis(self.config.pre_stop_delay_ms)).await;
        let grace = Duration::from_millis(self.config.stop_grace_ms);
        self.http_stopping.cancel();
        let mut late = Vec::new();
        if !self.http.is_finished() && tokio::time::timeout(grace, self.http).await.is_err() {
            late.push("http");
        }
        for service in self.services.iter() {
            if !stop_service(service, grace).await {
                late.push(service.name());
            }
        }
        // They are aborted when they are dropped.
        drop(self.dispatchers);
        if late.is_empty() {
            Ok(())
        } else {
            anyhow::bail!("did not finish within {grace:?}: {}", late.join(", "))
        }
    }
}

async fn stop_service(service: &Context, grace: Duration) -> bool {
    let shared = &service.shared;
    shared.stopping.cancel();
    shared.tasks.close();
    let finished = tokio::time::timeout(grace, shared.tasks.wait()).await.is_ok();
    // What was answered last must leave before the connection ends.
    let connected = shared.client.connection_state() == async_nats::connection::State::Connected;
    if !connected || shared.requester.round_trip(LAST_WORDS_PATIENCE).await.is_err() {
        tracing::warn!(service = service.name(), "the last messages may not have reached NATS");
    }
    let pools = std::mem::take(&mut *shared.pools.lock());
    for pool in pools {
        drop(tokio::time::timeout(LAST_WORDS_PATIENCE, pool.close()).await);
    }
    if connected {
        drop(shared.client.drain().await);
    }
    tracing::info!(service = service.name(), "stopped");
    finished
}

/// Installs the checking of credentials that the configuration does not name.
async fn start_access(context: Context, authenticator: rest::Authenticator) -> anyhow::Result<()> {
    authenticator.set_verifier(access::Register::start(&context).await?);
    Ok(())
}

/// Everything that the contexts of a process share.
struct Making<'a> {
    prepared: &'a Prepared,
    mounts: &'a rest::Mounts,
    fatal: &'a mpsc::Sender<anyhow::Error>,
}

impl Making<'_> {
    /// Connects a service and makes its context; the tasks hand its answers out.
    async fn context(
        &self,
        name: &'static str,
        subjects: &Subjects,
    ) -> anyhow::Result<(Context, JoinSet<()>)> {
        let instance = InstanceName::parse(name)?;
        let replica = ReplicaId::parse(&format!("{name}-{:08x}", rand::random::<u32>()))?;
        let client = crate::nats::connect(&self.prepared.nats, name, replica.as_str()).await?;
        let (requester, dispatchers) = Requester::start(client.clone(), replica.clone(), subjects).await?;
        let shared = Shared {
            name,
            instance,
            replica,
            platform_tenant: self.prepared.http.auth.platform_tenant.clone(),
            client,
            requester,
            postgres: self.prepared.postgres.clone(),
            mounts: self.mounts.clone(),
            pools: parking_lot::Mutex::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            fatal: self.fatal.clone(),
            started: AtomicBool::new(false),
        };
        Ok((Context { shared: Arc::new(shared) }, dispatchers))
    }
}
