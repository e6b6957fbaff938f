//! The one HTTP listener of a process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use parking_lot::RwLock;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::admission::Admission;
use crate::metrics::Metrics;
use crate::tls::Secure;
use crate::{Authenticator, Config, Error, Https, connection, service};

/// A listener could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: end what listens there, or set {key} to another address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The key that sets it.
        key: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The certificate of HTTPS cannot be used.
    #[error("no HTTPS (http.tls): {0}")]
    Certificate(::tls::Error),
}

/// The one HTTP listener of a process, and beside it that of HTTPS if there is a certificate.
#[derive(Debug)]
pub struct Edge {
    listener: TcpListener,
    address: SocketAddr,
    secure: Option<Secure>,
    admission: Arc<Admission>,
    idle_timeout: Duration,
    mounts: Mounts,
}

/// Where routers are mounted on the edge, before and while it serves. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Mounts {
    routes: Arc<RwLock<Router>>,
    https: Option<Https>,
    policy: Arc<Policy>,
}

/// What holds for the REST requests of all services in the process. The edge puts it into every request.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) authenticator: Authenticator,
    pub(crate) body_bytes_max: usize,
    pub(crate) request_timeout: Duration,
    /// One permit per request in work.
    pub(crate) requests: Semaphore,
    /// The same for routes with a time limit of their own.
    pub(crate) long_requests: Semaphore,
    /// One more for each of them to a route that needs no credentials: who has none takes no more than a part.
    pub(crate) public_requests: Semaphore,
    pub(crate) metrics: Metrics,
    /// Cancelled when the edge takes no more connections.
    pub(crate) stopping: CancellationToken,
    /// Whether every router of the process is mounted; before, a path that is unknown may become known.
    is_complete: AtomicBool,
}

/// Whether all routers of the process were mounted when a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IsComplete(pub(crate) bool);

impl Policy {
    pub(crate) fn completeness(&self) -> IsComplete {
        IsComplete(self.is_complete.load(Ordering::Acquire))
    }

    /// The policy that the edge put into the request.
    pub(crate) fn of(request: &Request) -> Result<Arc<Self>, Error> {
        request.extensions().get().cloned().ok_or_else(Error::not_mounted)
    }
}

impl Edge {
    /// Opens the listeners. Set the global meter provider before: the instruments are made here.
    ///
    /// # Errors
    /// When an address is taken or is not of this machine, or the certificate cannot be used.
    pub async fn bind(config: &Config) -> Result<Self, BindError> {
        let failed = |source| BindError::Listen { address: config.listen, key: "http.listen", source };
        let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let secure = Secure::bind(&config.tls).await?;
        let policy = Policy {
            authenticator: Authenticator::new(&config.auth),
            body_bytes_max: config.body_bytes_max,
            request_timeout: config.request_timeout(),
            requests: Semaphore::new(config.concurrent_requests_max.min(Semaphore::MAX_PERMITS)),
            long_requests: Semaphore::new(config.long_requests_max.min(Semaphore::MAX_PERMITS)),
            public_requests: Semaphore::new(config.public_requests_max().min(Semaphore::MAX_PERMITS)),
            metrics: Metrics::new(),
            stopping: CancellationToken::new(),
            is_complete: AtomicBool::new(false),
        };
        let mounts = Mounts {
            routes: Arc::new(RwLock::new(service::unknown_routes())),
            https: secure.as_ref().map(|secure| secure.https.clone()),
            policy: Arc::new(policy),
        };
        Ok(Self {
            listener,
            address,
            secure,
            admission: Admission::new(config.connections_max, config.connections_per_address_max),
            idle_timeout: config.idle_timeout(),
            mounts,
        })
    }

    /// The address of the listener, with the real port when port 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The address of the listener of HTTPS; none when there is none.
    #[must_use]
    pub fn tls_addr(&self) -> Option<SocketAddr> {
        self.secure.as_ref().map(|secure| secure.address)
    }

    /// Finds the tenant of a request.
    #[must_use]
    pub fn authenticator(&self) -> &Authenticator {
        &self.mounts.policy.authenticator
    }

    /// Where to mount routers.
    #[must_use]
    pub fn mounts(&self) -> &Mounts {
        &self.mounts
    }

    /// Serves until `stopping` is cancelled; then takes no more connections, ends the idle ones, lets each running request finish
    /// and returns when the last connection has ended. The caller bounds that: dropping the future cuts off the rest.
    pub async fn serve(mut self, stopping: CancellationToken) {
        let mut connections = tokio::task::JoinSet::new();
        if let Some(secure) = &self.secure {
            tracing::info!(address = %secure.address, "serving HTTPS");
            let (certificates, stopping) = (secure.certificates.clone(), stopping.clone());
            connections.spawn(async move { certificates.follow(stopping).await });
        }
        loop {
            // Fair between the listeners, so that a flood at one does not hold up the other.
            let (accepted, handshake) = tokio::select! {
                () = stopping.cancelled() => break,
                accepted = self.listener.accept() => (accepted, None),
                accepted = Secure::accept(self.secure.as_mut()) => accepted,
                // Ended connections are taken out, so that the set does not grow.
                Some(_) = connections.join_next() => continue,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    connection::accept_failed(&error).await;
                    continue;
                }
            };
            match self.admission.admit(peer.ip()) {
                Ok(place) => {
                    let (mounts, idle_timeout) = (self.mounts.clone(), self.idle_timeout);
                    let stopping = stopping.clone();
                    connections.spawn(async move {
                        connection::begin(stream, handshake, peer, mounts, idle_timeout, stopping).await;
                        drop(place);
                    });
                }
                Err(full) => {
                    self.mounts.policy.metrics.refused(full.key());
                    // Over TLS nothing can be said before the handshake, which is what is to be saved.
                    if handshake.is_none() {
                        connection::refuse(&stream, full);
                    }
                }
            }
        }
        self.mounts.policy.stopping.cancel();
        drop((self.listener, self.secure));
        while connections.join_next().await.is_some() {}
    }
}

impl Mounts {
    /// Adds a router with full paths, for example `/epr/api/v1/...`. It must not have a fallback: the edge has one.
    ///
    /// # Panics
    /// When a path is mounted already, or the router has a fallback: two services of one process were given the same name.
    pub fn add(&self, router: Router) {
        let mut routes = self.routes.write();
        let merged = routes.clone().merge(router);
        *routes = merged;
    }

    /// Where sockets of HTTPS clients are handed over; none without a certificate.
    #[must_use]
    pub fn https(&self) -> Option<&Https> {
        self.https.as_ref()
    }

    /// Says that every router is mounted. Until then an unknown path is answered 503, because who asks for it may only
    /// have come too early.
    pub fn complete(&self) {
        self.policy.is_complete.store(true, Ordering::Release);
    }

    pub(crate) fn current(&self) -> Router {
        self.routes.read().clone()
    }

    pub(crate) fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }
}
