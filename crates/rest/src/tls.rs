//! HTTPS: the same routes as over HTTP, behind a certificate.

use std::future::pending;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ::tls::Certificates;
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::BindError;

/// HTTPS beside HTTP, the section `[http.tls]`. It is served when there is a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// Address and port to listen on; port 0 takes a free one. Default `0.0.0.0:8443`.
    pub listen: SocketAddr,
    /// The certificate chain, the server's own certificate first; PEM. It is read again when it changes. Default: none,
    /// no HTTPS.
    pub certificate_file: Option<PathBuf>,
    /// The key that belongs to it; PEM, not encrypted.
    pub key_file: Option<PathBuf>,
    /// Longest time that a TLS handshake may take, in milliseconds. Default 5000.
    pub handshake_timeout_ms: u64,
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8443)),
            certificate_file: None,
            key_file: None,
            handshake_timeout_ms: 5_000,
        }
    }
}

impl TlsConfig {
    pub(crate) fn check(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.certificate_file.is_some() != self.key_file.is_some() {
            let fault =
                "http.tls.certificate_file and http.tls.key_file belong together: give both or neither";
            faults.push(fault.to_owned());
        }
        if !(1..=60_000).contains(&self.handshake_timeout_ms) {
            let timeout = self.handshake_timeout_ms;
            faults.push(format!("http.tls.handshake_timeout_ms is {timeout}: set it to 1 to 60000"));
        }
        faults
    }
}

/// Sockets that other listeners have handed over and that are not looked at yet.
const HANDED_MAX: usize = 1_024;

/// Hands the edge sockets of HTTPS clients that another listener has accepted and not read from. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Https(mpsc::Sender<(TcpStream, SocketAddr)>);

impl Https {
    /// Serves a socket as if the edge had accepted it: with the same limits, metrics and end. Returns whether it is taken;
    /// it is closed when too many wait, or the edge has stopped.
    #[must_use]
    pub fn serve(&self, stream: TcpStream, peer: SocketAddr) -> bool {
        self.0.try_send((stream, peer)).is_ok()
    }
}

/// The listener of HTTPS.
#[derive(Debug)]
pub(crate) struct Secure {
    listener: TcpListener,
    pub(crate) address: SocketAddr,
    pub(crate) certificates: Arc<Certificates>,
    handshake: Handshake,
    pub(crate) https: Https,
    handed: mpsc::Receiver<(TcpStream, SocketAddr)>,
}

/// Makes TLS connections out of sockets. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Handshake {
    acceptor: TlsAcceptor,
    timeout: Duration,
}

impl Secure {
    /// Opens the listener, if there is to be one.
    pub(crate) async fn bind(config: &TlsConfig) -> Result<Option<Self>, BindError> {
        let Some((certificate_file, key_file)) = config.certificate_file.clone().zip(config.key_file.clone())
        else {
            return Ok(None);
        };
        let files = ::tls::Files { certificate_file, key_file, ca_file: None };
        let certificates = Certificates::load(files).await.map_err(BindError::Certificate)?;
        let mut server =
            ::tls::server_config(Arc::clone(&certificates), None).map_err(BindError::Certificate)?;
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        let failed = |source| BindError::Listen { address: config.listen, key: "http.tls.listen", source };
        let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let timeout = Duration::from_millis(config.handshake_timeout_ms);
        let handshake = Handshake { acceptor: TlsAcceptor::from(Arc::new(server)), timeout };
        let (sender, handed) = mpsc::channel(HANDED_MAX);
        Ok(Some(Self { listener, address, certificates, handshake, https: Https(sender), handed }))
    }

    /// The next connection, and how to go on with it; waits for ever without a listener.
    pub(crate) async fn accept(
        secure: Option<&mut Self>,
    ) -> (io::Result<(TcpStream, SocketAddr)>, Option<Handshake>) {
        match secure {
            Some(secure) => {
                let accepted = tokio::select! {
                    accepted = secure.listener.accept() => accepted,
                    // There is always a sender.
                    Some(handed) = secure.handed.recv() => Ok(handed),
                };
                (accepted, Some(secure.handshake.clone()))
            }
            None => pending().await,
        }
    }
}

impl Handshake {
    /// Shakes hands with a client.
    pub(crate) async fn shake(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        match tokio::time::timeout(self.timeout, self.acceptor.accept(stream)).await {
            Ok(accepted) => accepted,
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the TLS handshake took longer than http.tls.handshake_timeout_ms",
            )),
        }
    }
}

impl std::fmt::Debug for Handshake {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Handshake").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}
