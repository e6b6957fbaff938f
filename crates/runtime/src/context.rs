//! What a service is given to live on.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use async_nats::Client;
use ids::{InstanceName, ReplicaId, TenantId};
use parking_lot::Mutex;
use sqlx::PgPool;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::{RequestError, Requester, Subscription};

/// While NATS is away, nothing comes back; then the question is put again.
const ROUND_TRIP_TIMEOUT: Duration = Duration::from_secs(2);

/// A service's connections, tasks and end. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) name: &'static str,
    pub(crate) instance: InstanceName,
    pub(crate) replica: ReplicaId,
    pub(crate) platform_tenant: TenantId,
    pub(crate) client: Client,
    pub(crate) requester: Requester,
    pub(crate) postgres: store::Config,
    pub(crate) mounts: rest::Mounts,
    pub(crate) pools: Mutex<Vec<PgPool>>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stopping: CancellationToken,
    pub(crate) fatal: mpsc::Sender<anyhow::Error>,
    pub(crate) started: AtomicBool,
}

impl Context {
    /// The service's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.shared.name
    }

    /// The service instance (3/ISM): what subjects and queue groups are named after.
    #[must_use]
    pub fn instance(&self) -> &InstanceName {
        &self.shared.instance
    }

    /// This replica of the instance.
    #[must_use]
    pub fn replica(&self) -> &ReplicaId {
        &self.shared.replica
    }

    /// The tenant whose administrators manage all tenants (`http.auth.platform_tenant`).
    #[must_use]
    pub fn platform_tenant(&self) -> &TenantId {
        &self.shared.platform_tenant
    }

    /// The service's own NATS connection.
    #[must_use]
    pub fn nats(&self) -> &Client {
        &self.shared.client
    }

    /// Requests to other services.
    #[must_use]
    pub fn requester(&self) -> &Requester {
        &self.shared.requester
    }

    /// Opens the service's own schema under its own role, with all migrations applied.
    pub async fn postgres(&self, migrator: &'static sqlx::migrate::Migrator) -> anyhow::Result<PgPool> {
        let opening = store::open(&self.shared.postgres, self.shared.name, migrator);
        let pool = tokio::select! {
            pool = opening => pool?,
            () = self.shared.stopping.cancelled() => anyhow::bail!("stopped while waiting for PostgreSQL"),
        };
        self.shared.pools.lock().push(pool.clone());
        Ok(pool)
    }

    /// Adds routes, with their full paths, to the HTTP listener of the process.
    pub fn mount(&self, routes: axum::Router) {
        self.shared.mounts.add(routes);
    }

    /// Where sockets of HTTPS clients are handed to the HTTP listener of the process; none when it serves no HTTPS.
    #[must_use]
    pub fn https(&self) -> Option<&rest::Https> {
        self.shared.mounts.https()
    }

    /// Subscribes to a subject; replicas that name the same queue share its messages.
    pub async fn subscribe(&self, subject: String, queue: Option<&str>) -> anyhow::Result<Subscription> {
        let client = &self.shared.client;
        let subscriber = match queue {
            Some(queue) => client.queue_subscribe(subject.clone(), queue.to_owned()).await,
            None => client.subscribe(subject.clone()).await,
        };
        let subscriber = subscriber.with_context(|| format!("subscribing to {subject}"))?;
        // Whoever subscribes says soon after that it is ready: the server must know of the subscription by then.
        self.settled().await?;
        Ok(Subscription::new(subscriber, client.clone(), self.shared.stopping.clone()))
    }

    /// Waits until the NATS server has taken in all that this service has published so far. What was only written to
    /// the socket (`flush`) may be lost with the connection.
    ///
    /// # Errors
    /// When that is not known in time: what was published may have to be published again.
    pub async fn published(&self, timeout: Duration) -> Result<(), RequestError> {
        self.shared.requester.round_trip(timeout).await
    }

    /// Waits until NATS has taken in all subscriptions so far.
    pub(crate) async fn settled(&self) -> anyhow::Result<()> {
        let settled = async { while self.shared.requester.round_trip(ROUND_TRIP_TIMEOUT).await.is_err() {} };
        tokio::select! {
            () = settled => Ok(()),
            () = self.shared.stopping.cancelled() => anyhow::bail!("stopped while waiting for NATS"),
        }
    }

    /// Spawns a task that must live as long as the service. If it ends before, well or badly, the process stops with
    /// an error: a service that has died must not look alive.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        let shared = self.shared.clone();
        self.shared.tasks.spawn(async move {
            let end = tokio::spawn(task).await;
            let error = match end {
                Ok(Ok(())) if shared.stopping.is_cancelled() => return,
                Ok(Ok(())) => anyhow::anyhow!("it ended before its time"),
                Ok(Err(error)) => error,
                Err(panic) => anyhow::anyhow!(panic),
            };
            let error = error.context(format!("task {name} of service {} failed", shared.name));
            // A full channel already holds an error that stops the process.
            drop(shared.fatal.try_send(error));
        });
    }

    /// Spawns a task that ends by itself; the service waits for it when it stops.
    pub fn task(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.shared.tasks.spawn(task);
    }

    /// Cancelled when the service must take no more work and finish what it has.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.shared.stopping.clone()
    }

    pub(crate) fn is_ready(&self) -> Result<(), &'static str> {
        if !self.shared.started.load(Ordering::Acquire) {
            return Err("starting");
        }
        if self.shared.stopping.is_cancelled() {
            return Err("stopping");
        }
        match self.shared.client.connection_state() {
            async_nats::connection::State::Connected => Ok(()),
            _ => Err("not connected to NATS"),
        }
    }
}
