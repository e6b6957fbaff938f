//! What all parts of the gateway share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ids::{EndpointId, InstanceName, ReplicaId};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::addresses::{Addresses, CONNECTING_PER_ADDRESS, Place};
use crate::authorities::Authorities;
use crate::clients::Clients;
use crate::config::Config;
use crate::connections::Connections;
use crate::failure::Failure;
use crate::limits::{Source, TenantRates};
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::notices::Notices;
use crate::places::Places;
use crate::relay::{Relay, Route};
use crate::sharing::Connectivity;
use crate::wills::Wills;

/// The gateway of one replica.
pub(crate) struct Gateway {
    pub(crate) config: Config,
    pub(crate) instance: InstanceName,
    pub(crate) replica: ReplicaId,
    pub(crate) relay: Relay,
    pub(crate) clients: Arc<Clients>,
    pub(crate) tenants: TenantRates,
    pub(crate) memory: Memory,
    /// Those who wait for something to happen (HTTP `Prefer: wait=N`). A wait outlives a client that goes, here and in the
    /// extension.
    pub(crate) waits: Places<EndpointId>,
    pub(crate) connections: Connections,
    pub(crate) addresses: Addresses,
    pub(crate) authorities: Arc<Authorities>,
    pub(crate) connectivity: Arc<Connectivity>,
    pub(crate) wills: Wills,
    pub(crate) notices: Notices,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) in_flight: AtomicUsize,
    /// Cancelled when the gateway stops: devices' messages are taken no more.
    pub(crate) draining: CancellationToken,
    /// Where work goes that must outlive the connection that caused it.
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) context: runtime::Context,
}

impl Gateway {
    /// Until when a message that comes now is tried: for the configured time, or less when the sender said so.
    pub(crate) fn deadline(&self, expiry: Option<Duration>) -> Instant {
        let longest = self.config.deadline();
        Instant::now() + expiry.map_or(longest, |expiry| expiry.min(longest))
    }

    /// Takes a message's share of what its endpoint and its tenant may send; waits for it until `patience` ends, if there is
    /// any. Its token, if it needs one, must have been found valid before, or strangers could use up what a tenant may
    /// send.
    ///
    /// # Errors
    /// 429, naming the limit that is reached; as [`Rate::take`](crate::limits::Rate::take).
    pub(crate) async fn take_rates(
        &self,
        route: &Route,
        now: Instant,
        patience: Option<Instant>,
    ) -> Result<(), Failure> {
        if let Some(identity) = &route.identity {
            identity.rate.take(Source::Endpoint, now, patience).await?;
        }
        self.tenants.of(&route.tenant).take(Source::Tenant, now, patience).await
    }

    /// Spawns a task on the process's runtime; the service waits for it when it stops.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let _entered = self.runtime.enter();
        self.context.task(task);
    }

    /// Notes where a new socket comes from; none when that has too many that have not said CONNECT, and it must be closed.
    pub(crate) fn enter_socket(&self, address: SocketAddr) -> Option<Place> {
        let place = self.addresses.enter(address.ip());
        if place.is_none() {
            self.metrics.refused_connection(CONNECTING_PER_ADDRESS);
            tracing::debug!(%address, "a socket was closed: its address has too many ({CONNECTING_PER_ADDRESS})");
        }
        place
    }

    /// Counts a message as in flight until the result is dropped.
    pub(crate) fn enter(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        self.metrics.in_flight(1);
        InFlight(self.clone())
    }
}

/// A message that is being worked on.
pub(crate) struct InFlight(Arc<Gateway>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
        self.0.metrics.in_flight(-1);
    }
}
