//! Who is at the other end of an MQTT connection, as far as its transport knows.

use std::net::SocketAddr;

use ids::TenantId;

/// The other end of a connection, before it has sent a byte of MQTT.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// Where the connection comes from. What proxies say about their clients is not believed.
    pub(crate) address: SocketAddr,
    /// What carries MQTT.
    pub(crate) transport: Transport,
    /// The certificate that the client has proven to hold the key of; already verified against its authority.
    pub(crate) certificate: Option<PeerCertificate>,
}

impl Peer {
    /// A connection over plain TCP.
    pub(crate) const fn tcp(address: SocketAddr) -> Self {
        Self { address, transport: Transport::Tcp, certificate: None }
    }
}

/// What carries MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Transport {
    /// Plain TCP.
    Tcp,
    /// TLS.
    Tls,
    /// WebSocket.
    Ws,
    /// WebSocket over TLS.
    Wss,
}

impl Transport {
    /// The name in configurations, metrics and logs.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }
}

/// A client's certificate, named as 22/CAP names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerCertificate {
    /// The tenant whose authority signed the certificate.
    pub(crate) tenant: TenantId,
    /// The issuer's distinguished name (RFC 4514), as `ccm` keeps it.
    pub(crate) issuer: String,
    /// The serial number, decimal.
    pub(crate) serial_number: String,
    /// Until when the certificate is valid, in ms since 1970.
    pub(crate) not_after: i64,
}
