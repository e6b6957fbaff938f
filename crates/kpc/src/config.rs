//! Section `[kpc]`: every limit of the gateway has a name, a unit and a default.

mod clients;
mod transports;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::Deserialize;

pub use clients::{Clients, Throttle, Traffic};
pub use transports::{Tls, TlsPort, Ws, Wss};

/// Section `[kpc]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long a device's message may take before it is answered with an error, in ms. MQTT 5's message expiry shortens it.
    pub deadline_ms: u64,
    /// How much longer than `deadline_ms` an HTTP client may wait for its answer when it asks to (`Prefer: wait=N`), in s; 0: not at all.
    pub prefer_wait_max_s: u16,
    /// How long a pushed message may take until the device has acknowledged it, in ms.
    pub push_deadline_ms: u64,
    /// How long the gateway finishes what it has accepted when it stops, in ms.
    pub drain_timeout_ms: u64,
    /// MQTT.
    pub mqtt: Mqtt,
    /// One TLS port for MQTT, HTTP and WebSocket.
    pub tls_port: TlsPort,
    /// What one client, address or endpoint may take.
    pub limits: Limits,
    /// What is remembered of endpoint tokens.
    pub tokens: Tokens,
    /// How clients' credentials are looked up.
    pub clients: Clients,
    /// How guessing is slowed down.
    pub throttle: Throttle,
    /// Traffic reports.
    pub traffic: Traffic,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            deadline_ms: 10_000,
            prefer_wait_max_s: 60,
            push_deadline_ms: 10_000,
            drain_timeout_ms: 5_000,
            mqtt: Mqtt::default(),
            tls_port: TlsPort::default(),
            limits: Limits::default(),
            tokens: Tokens::default(),
            clients: Clients::default(),
            throttle: Throttle::default(),
            traffic: Traffic::default(),
        }
    }
}

/// Section `[kpc.mqtt]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mqtt {
    /// Where plain MQTT is served, 3.1.1 and 5 alike. Port 0 takes any free port.
    pub listen: SocketAddr,
    /// Threads that serve connections; 0 takes one for each processor, at most 4.
    pub workers: usize,
    /// Connections that wait to be accepted.
    pub backlog: u32,
    /// The longest keep-alive that MQTT 5 clients are granted, and how long a client without keep-alive may be silent, in s.
    pub keep_alive_max_s: u16,
    /// How long a new connection may take to send CONNECT, in s.
    pub connect_timeout_s: u16,
    /// How long a client that does not read may hold up its connection, in s.
    pub write_timeout_s: u16,
    /// MQTT over TLS.
    pub tls: Tls,
    /// MQTT over WebSocket.
    pub ws: Ws,
    /// MQTT over WebSocket over TLS.
    pub wss: Wss,
}

impl Default for Mqtt {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 1883)),
            workers: 0,
            backlog: 2_048,
            keep_alive_max_s: 3_600,
            connect_timeout_s: 5,
            write_timeout_s: 5,
            tls: Tls::default(),
            ws: Ws::default(),
            wss: Wss::default(),
        }
    }
}

impl Mqtt {
    /// The number of worker threads.
    pub(crate) fn workers(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from).min(4),
            workers => workers,
        }
    }
}

/// Section `[kpc.limits]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of one payload. NATS carries 1 MiB together with our envelope; larger payloads are for binary collection.
    pub payload_bytes: u32,
    /// MQTT connections of this replica.
    pub connections: usize,
    /// MQTT connections from one address.
    pub connections_per_address: usize,
    /// Sockets of one address that have not said CONNECT yet, TLS handshakes and WebSocket upgrades among them; more are closed.
    pub connecting_per_address: usize,
    /// Endpoints that one connection speaks for.
    pub endpoints_per_connection: usize,
    /// Topic filters that one connection subscribes to.
    pub subscriptions_per_connection: usize,
    /// Messages of one connection that are being worked on. The gateway reads on until four times as many are here; those
    /// above the limit wait for their turn.
    pub in_flight_per_connection: u16,
    /// Bytes of one connection's messages that are here; the gateway does not read on above it.
    pub in_flight_bytes_per_connection: usize,
    /// Bytes of the payloads of all messages that are being worked on, over MQTT and HTTP together. Above it MQTT clients are
    /// not read on until the deadline, and HTTP clients are answered 503.
    pub in_flight_bytes: usize,
    /// Messages per second from one connection; up to twice as many in a burst.
    pub messages_per_second_per_connection: u32,
    /// Messages per second with one endpoint's token; up to twice as many in a burst.
    pub messages_per_second_per_endpoint: u32,
    /// Messages per second of all endpoints of one tenant together, on this replica; up to twice as many in a burst.
    pub messages_per_second_per_tenant: u32,
    /// Messages that wait to be sent to one client; a client that lets more gather is disconnected.
    pub outbox_messages: usize,
    /// Bytes that wait to be sent to one client; a client that lets more gather is disconnected.
    pub outbox_bytes: usize,
    /// Messages to one client that it has not acknowledged yet.
    pub unacknowledged_per_connection: u16,
    /// HTTP clients of this replica that are waited with because they ask to (`Prefer: wait=N`); others are answered at once.
    pub waits: usize,
    /// Those of one endpoint. One that goes counts until its time is over.
    pub waits_per_endpoint: u16,
    /// Wills that wait for their delay; above it a will is sent at once.
    pub delayed_wills: usize,
    /// The longest delay of a will, in s.
    pub will_delay_max_s: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            payload_bytes: 1_000_000,
            connections: 100_000,
            connections_per_address: 20_000,
            connecting_per_address: 2_000,
            endpoints_per_connection: 1_000,
            subscriptions_per_connection: 2_000,
            in_flight_per_connection: 64,
            in_flight_bytes_per_connection: 4 * 1_024 * 1_024,
            in_flight_bytes: 256 * 1_024 * 1_024,
            messages_per_second_per_connection: 100_000,
            messages_per_second_per_endpoint: 100_000,
            messages_per_second_per_tenant: 1_000_000,
            outbox_messages: 1_000,
            outbox_bytes: 4 * 1_024 * 1_024,
            unacknowledged_per_connection: 32,
            waits: 4_096,
            waits_per_endpoint: 8,
            delayed_wills: 10_000,
            will_delay_max_s: 3_600,
        }
    }
}

/// Section `[kpc.tokens]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tokens {
    /// Valid tokens that are remembered; the least used go first.
    pub valid_max: usize,
    /// How long a valid token is taken for valid without asking again, in ms. A revocation takes effect at once.
    pub valid_ttl_ms: u64,
    /// Refused tokens that are remembered, apart from the valid ones, so that guessing drives none of those out.
    pub refused_max: usize,
    /// How long a refused token is refused without asking again, in ms.
    pub refused_ttl_ms: u64,
    /// How long one question to the token register may take, in ms.
    pub timeout_ms: u64,
}

impl Default for Tokens {
    fn default() -> Self {
        Self {
            valid_max: 200_000,
            valid_ttl_ms: 300_000,
            refused_max: 10_000,
            refused_ttl_ms: 1_500,
            timeout_ms: 2_000,
        }
    }
}

impl Config {
    pub(crate) fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline_ms)
    }

    /// Faults that the types cannot express, as (key, message).
    pub(crate) fn faults(&self) -> Vec<(&'static str, String)> {
        let limits = &self.limits;
        let positive = [
            ("deadline_ms", self.deadline_ms),
            ("push_deadline_ms", self.push_deadline_ms),
            ("mqtt.keep_alive_max_s", self.mqtt.keep_alive_max_s.into()),
            ("mqtt.connect_timeout_s", self.mqtt.connect_timeout_s.into()),
            ("mqtt.write_timeout_s", self.mqtt.write_timeout_s.into()),
            ("mqtt.backlog", self.mqtt.backlog.into()),
            ("mqtt.tls.handshake_timeout_s", self.mqtt.tls.handshake_timeout_s.into()),
            ("mqtt.tls.handshakes_max", self.mqtt.tls.handshakes_max as u64),
            ("limits.payload_bytes", limits.payload_bytes.into()),
            ("limits.connections", limits.connections as u64),
            ("limits.connections_per_address", limits.connections_per_address as u64),
            ("limits.connecting_per_address", limits.connecting_per_address as u64),
            ("limits.endpoints_per_connection", limits.endpoints_per_connection as u64),
            ("limits.in_flight_per_connection", limits.in_flight_per_connection.into()),
            ("limits.messages_per_second_per_connection", limits.messages_per_second_per_connection.into()),
            ("limits.messages_per_second_per_endpoint", limits.messages_per_second_per_endpoint.into()),
            ("limits.messages_per_second_per_tenant", limits.messages_per_second_per_tenant.into()),
            ("limits.outbox_messages", limits.outbox_messages as u64),
            ("limits.unacknowledged_per_connection", limits.unacknowledged_per_connection.into()),
            ("tls_port.waiting_max", self.tls_port.waiting_max as u64),
            ("tokens.valid_max", self.tokens.valid_max as u64),
            ("tokens.refused_max", self.tokens.refused_max as u64),
            ("tokens.timeout_ms", self.tokens.timeout_ms),
            ("clients.timeout_ms", self.clients.timeout_ms),
            ("clients.questions_max", self.clients.questions_max as u64),
            ("clients.recheck_s", self.clients.recheck_s.into()),
            ("throttle.block_first_s", self.throttle.block_first_s.into()),
            ("throttle.block_max_s", self.throttle.block_max_s.into()),
            ("throttle.addresses_max", self.throttle.addresses_max as u64),
            ("throttle.remembered_max", self.throttle.remembered_max as u64),
        ];
        let mut faults: Vec<_> = positive
            .into_iter()
            .filter(|(_, value)| *value == 0)
            .map(|(key, _)| (key, "must be greater than 0".to_owned()))
            .collect();
        faults.extend(self.mqtt.tls.fault());
        faults.extend(self.tls_port.fault(&self.mqtt.tls));
        let payload = u64::from(limits.payload_bytes);
        for (key, bytes) in [
            ("limits.outbox_bytes", limits.outbox_bytes as u64),
            ("limits.in_flight_bytes_per_connection", limits.in_flight_bytes_per_connection as u64),
            ("limits.in_flight_bytes", limits.in_flight_bytes as u64),
        ] {
            if bytes < payload {
                faults.push((
                    key,
                    format!("must be at least limits.payload_bytes ({payload}), to hold one message"),
                ));
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_have_no_fault() {
        assert_eq!(Config::default().faults(), []);
    }

    #[test]
    fn every_fault_is_told() {
        let mut config = Config { deadline_ms: 0, ..Config::default() };
        config.limits.messages_per_second_per_tenant = 0;
        config.limits.outbox_bytes = 10;
        config.limits.in_flight_bytes = 10;
        config.tls_port = TlsPort { listen: Some(([0, 0, 0, 0], 443).into()), waiting_max: 0 };
        config.mqtt.tls.certificate_file = Some("tls.crt".into());
        let keys: Vec<_> = config.faults().into_iter().map(|(key, _)| key).collect();
        let expected = [
            "deadline_ms",
            "limits.messages_per_second_per_tenant",
            "tls_port.waiting_max",
            "mqtt.tls.key_file",
            "tls_port.listen",
            "limits.outbox_bytes",
            "limits.in_flight_bytes",
        ];
        assert_eq!(keys, expected);
    }
}
