//! Server certificates that are exchanged while they serve.
//!
//! Every TLS server of a process takes its [`ServerConfig`] from [`server_config`]: one provider of cryptography, the
//! same versions of TLS, and [`Certificates`] that follow their files. [`offer`] tells what a client wants to speak before
//! anybody shakes hands with it, for a port that serves several protocols.

mod certificates;
mod error;
mod hello;
mod pair;

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert, ServerSessionMemoryCache};

pub use certificates::{Certificates, Files};
pub use error::Error;
pub use hello::{CLIENT_HELLO_BYTES_MAX, HelloError, Offer, offer, refuse_protocols};

/// The one provider of cryptography: ring.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Sessions that a server without certificates of clients keeps to resume them; some hundred bytes each.
const SESSIONS_MAX: usize = 16_384;

/// What every TLS server has: TLS 1.2 and 1.3, certificates that may be exchanged, no early data.
///
/// With `clients`, certificates of clients are asked for and checked by it, and no session is resumed: one that is
/// resumed shows and checks no certificate.
///
/// # Errors
/// When the provider does not have these versions, which does not happen with ring.
pub fn server_config(
    certificates: Arc<Certificates>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<ServerConfig, Error> {
    let certificates: Arc<dyn ResolvesServerCert> = certificates;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(Error::Provider)?;
    Ok(match clients {
        Some(clients) => {
            let mut config = builder.with_client_cert_verifier(clients).with_cert_resolver(certificates);
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            config
        }
        None => {
            let mut config = builder.with_no_client_auth().with_cert_resolver(certificates);
            config.session_storage = ServerSessionMemoryCache::new(SESSIONS_MAX);
            config.send_tls13_tickets = 1;
            config
        }
    })
}
