//! TLS handshakes, and what they tell of clients.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ntex::io::{Io, Layer};
use ntex::server::rustls::{PeerCert, TlsServerFilter};
use ntex::time::Millis;
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::sync::Semaphore;

use crate::authorities::Authorities;
use crate::config;
use crate::peer::PeerCertificate;

/// What carries what is said over TLS.
pub(super) type Secured = Io<Layer<TlsServerFilter>>;

/// Makes TLS connections, on any thread. Cheap to clone.
#[derive(Clone)]
pub(super) struct Acceptor {
    config: Arc<ServerConfig>,
    authorities: Arc<Authorities>,
    /// One permit for each handshake.
    handshakes: Arc<Semaphore>,
    patience: Duration,
}

/// Why there is no TLS connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error("the TLS handshake took longer than {0:?} (kpc.mqtt.tls.handshake_timeout_s)")]
    Timeout(Duration),
    #[error("the TLS handshake failed: {0}")]
    Handshake(io::Error),
    #[error("the client's certificate is trusted no more: {0}")]
    Certificate(rustls::Error),
}

impl Acceptor {
    pub(super) fn new(
        tls: &config::Tls,
        certificates: Arc<::tls::Certificates>,
        authorities: Arc<Authorities>,
    ) -> Result<Self, ::tls::Error> {
        let verifier: Option<Arc<dyn rustls::server::danger::ClientCertVerifier>> =
            if tls.client_certificates { Some(authorities.clone()) } else { None };
        Ok(Self {
            config: Arc::new(::tls::server_config(certificates, verifier)?),
            authorities,
            handshakes: Arc::new(Semaphore::new(tls.handshakes_max.min(Semaphore::MAX_PERMITS))),
            patience: Duration::from_secs(tls.handshake_timeout_s.into()),
        })
    }

    /// The same for clients that say which protocol they want (ALPN). Who offers none of these gets no connection; who
    /// says nothing gets one.
    pub(super) fn speaking(&self, protocols: &[&[u8]]) -> Self {
        let mut config = ServerConfig::clone(&self.config);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Self { config: Arc::new(config), ..self.clone() }
    }

    /// Shakes hands with a client.
    pub(super) async fn accept(&self, io: Io) -> Result<(Secured, Option<PeerCertificate>), Failed> {
        let handshake = async {
            // The semaphore is never closed.
            let _permit = self.handshakes.acquire().await;
            TlsServerFilter::create(io, self.config.clone(), Millis::ZERO).await
        };
        let io = match tokio::time::timeout(self.patience, handshake).await {
            Ok(Ok(io)) => io,
            Ok(Err(error)) => return Err(Failed::Handshake(error)),
            Err(_) => return Err(Failed::Timeout(self.patience)),
        };
        // The handshake has verified the certificate but does not hand out who it belongs to.
        let identify =
            |certificate: &CertificateDer<'_>| self.authorities.identify(certificate, UnixTime::now());
        let certificate = io.query::<PeerCert<'static>>().as_ref().map(|peer| identify(&peer.0)).transpose();
        Ok((io, certificate.map_err(Failed::Certificate)?))
    }
}
