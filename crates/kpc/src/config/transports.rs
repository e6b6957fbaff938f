//! The transports of MQTT beside plain TCP.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::Deserialize;

/// Section `[kpc.mqtt.tls]`. There is neither MQTT over TLS nor over WebSocket over TLS without a certificate.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// Where MQTT over TLS is served. Port 0 takes any free port.
    pub listen: SocketAddr,
    /// The certificate chain, the gateway's own certificate first; PEM. It is read again when it changes.
    pub certificate_file: Option<PathBuf>,
    /// The key that belongs to it; PEM, not encrypted.
    pub key_file: Option<PathBuf>,
    /// The root that clients download to trust the gateway; PEM. None: the last certificate of the chain.
    pub ca_file: Option<PathBuf>,
    /// Whether clients are asked for a certificate. They may have none; one that they have must be signed by an
    /// authority of a tenant.
    pub client_certificates: bool,
    /// How long a TLS handshake may take, in s.
    pub handshake_timeout_s: u16,
    /// TLS handshakes of this replica at once; more wait, within their time.
    pub handshakes_max: usize,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8883)),
            certificate_file: None,
            key_file: None,
            ca_file: None,
            client_certificates: true,
            handshake_timeout_s: 5,
            handshakes_max: 4_000,
        }
    }
}

impl Tls {
    /// The files of the certificate; none when there is to be no TLS.
    pub(crate) fn files(&self) -> Option<tls::Files> {
        let (certificate_file, key_file) = self.certificate_file.clone().zip(self.key_file.clone())?;
        Some(tls::Files { certificate_file, key_file, ca_file: self.ca_file.clone() })
    }

    /// What the types cannot express, as (key, message).
    pub(super) fn fault(&self) -> Option<(&'static str, String)> {
        let together = "certificate_file and key_file belong together: give both, or neither for no TLS";
        match (&self.certificate_file, &self.key_file, &self.ca_file) {
            (Some(_), None, _) => Some(("mqtt.tls.key_file", together.to_owned())),
            (None, Some(_), _) => Some(("mqtt.tls.certificate_file", together.to_owned())),
            (None, None, Some(_)) => {
                Some(("mqtt.tls.ca_file", "has no meaning without certificate_file and key_file".to_owned()))
            }
            _ => None,
        }
    }
}

/// Section `[kpc.mqtt.ws]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ws {
    /// Whether it is served.
    pub enabled: bool,
    /// Where it is served, at `/mqtt` and `/ws`. Port 0 takes any free port.
    pub listen: SocketAddr,
}

impl Default for Ws {
    fn default() -> Self {
        Self { enabled: true, listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8083)) }
    }
}

/// Section `[kpc.mqtt.wss]`. It has the certificate of `[kpc.mqtt.tls]`, and is served only when that has one.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wss {
    /// Whether it is served.
    pub enabled: bool,
    /// Where it is served, at `/mqtt` and `/ws`. Port 0 takes any free port.
    pub listen: SocketAddr,
}

impl Default for Wss {
    fn default() -> Self {
        Self { enabled: true, listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8084)) }
    }
}

/// Section `[kpc.tls_port]`: one port for all that is served over TLS, for networks that let only one out. What a client offers
/// in its first message (ALPN) decides what it gets: `x-amzn-mqtt-ca`, `mqtt` or nothing MQTT, `http/1.1` HTTPS.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsPort {
    /// Where it is served, usually at port 443. Port 0 takes any free port. Default: none, there is no such port.
    pub listen: Option<SocketAddr>,
    /// Sockets that have been accepted and have not said what they want, or have not got their CONNACK yet; more wait to be
    /// accepted. Default 4096.
    pub waiting_max: usize,
}

impl Default for TlsPort {
    fn default() -> Self {
        Self { listen: None, waiting_max: 4_096 }
    }
}

impl TlsPort {
    /// What the types cannot express, as (key, message).
    pub(super) fn fault(&self, tls: &Tls) -> Option<(&'static str, String)> {
        let message = "has no certificate: set kpc.mqtt.tls.certificate_file and kpc.mqtt.tls.key_file";
        (self.listen.is_some() && tls.files().is_none()).then(|| ("tls_port.listen", message.to_owned()))
    }
}
