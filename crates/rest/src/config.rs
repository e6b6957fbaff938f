//! The section `[http]` of the configuration.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::Deserialize;

use crate::{AuthConfig, TlsConfig};

/// The listener and the limits of HTTP. The limits named "REST" hold for the routers of [`crate::service`]; other routers on the same
/// listener have their own.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address and port to listen on; port 0 takes a free one. Default `0.0.0.0:8080`.
    pub listen: SocketAddr,
    /// Open connections at most. Default 10000.
    pub connections_max: usize,
    /// Open connections of one address at most. Behind a proxy, whose address all clients share, leave it at least at
    /// `connections_max`. Default 10000.
    pub connections_per_address_max: usize,
    /// How long a connection may wait for the next request's whole head, in milliseconds. Default 75000.
    pub idle_timeout_ms: u64,
    /// Longest body of a REST request in bytes. Default 1048576.
    pub body_bytes_max: usize,
    /// Longest time that a REST request may take, in milliseconds. Default 30000.
    pub request_timeout_ms: u64,
    /// REST requests in work at once, of all services in the process together. Default 1024. Routes that need no
    /// credentials get a quarter of them.
    pub concurrent_requests_max: usize,
    /// Requests in work at once, of all services together, to routes that may take longer than `request_timeout_ms` because they wait
    /// for something, such as the answer of a device. They take no place of the others. Default 4096.
    pub long_requests_max: usize,
    /// HTTPS beside HTTP.
    pub tls: TlsConfig,
    /// Who may call the REST interfaces.
    pub auth: AuthConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080)),
            connections_max: 10_000,
            connections_per_address_max: 10_000,
            idle_timeout_ms: 75_000,
            body_bytes_max: 1 << 20,
            request_timeout_ms: 30_000,
            concurrent_requests_max: 1_024,
            long_requests_max: 4_096,
            tls: TlsConfig::default(),
            auth: AuthConfig::default(),
        }
    }
}

impl Config {
    /// All that is wrong with these settings, each with the key and the fix; empty when nothing is.
    #[must_use]
    pub fn check(&self) -> Vec<String> {
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let limits = [
            ("connections_max", count(self.connections_max), 1_000_000),
            ("connections_per_address_max", count(self.connections_per_address_max), 1_000_000),
            ("idle_timeout_ms", self.idle_timeout_ms, 3_600_000),
            ("body_bytes_max", count(self.body_bytes_max), 1 << 30),
            ("request_timeout_ms", self.request_timeout_ms, 3_600_000),
            ("concurrent_requests_max", count(self.concurrent_requests_max), 1_000_000),
            ("long_requests_max", count(self.long_requests_max), 1_000_000),
        ];
        let outside = limits.into_iter().filter(|(_, value, max)| !(1..=*max).contains(value));
        let mut faults: Vec<String> =
            outside.map(|(key, value, max)| format!("http.{key} is {value}: set it to 1 to {max}")).collect();
        faults.extend(self.tls.check());
        faults.extend(self.auth.check());
        faults
    }

    /// Requests in work at once that need no credentials. Without this bound, logins that wait or whose bodies come
    /// slowly would hold up everybody who has credentials.
    pub(crate) fn public_requests_max(&self) -> usize {
        (self.concurrent_requests_max / 4).max(1)
    }

    pub(crate) fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.idle_timeout_ms)
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_told() {
        assert!(Config::default().check().is_empty());
        let config = Config {
            connections_per_address_max: 0,
            body_bytes_max: 0,
            long_requests_max: 0,
            request_timeout_ms: u64::MAX,
            tls: TlsConfig {
                key_file: Some("tls.key".into()),
                handshake_timeout_ms: 0,
                ..TlsConfig::default()
            },
            auth: AuthConfig { api_key: "short".to_owned(), ..AuthConfig::default() },
            ..Config::default()
        };
        let faults = config.check().join("\n");
        for key in [
            "http.connections_per_address_max",
            "http.body_bytes_max",
            "http.request_timeout_ms",
            "http.long_requests_max",
            "http.tls.certificate_file",
            "http.tls.handshake_timeout_ms",
            "http.auth.api_key",
            "http.auth.tenant",
        ] {
            assert!(faults.contains(key), "{key}: {faults}");
        }
    }
}
