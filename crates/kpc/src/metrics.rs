//! What the gateway counts. No label holds an endpoint id, a client id or a token.

use ids::ApplicationName;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, UpDownCounter};

use crate::peer;
use crate::relay::Passage;

/// How a message came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Mqtt,
    Http,
    Will,
}

impl Transport {
    fn name(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Http => "http",
            Self::Will => "will",
        }
    }
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The extension took it.
    Stored,
    /// It was refused for good, with this status.
    Refused(u16),
    /// It could not be delivered in time, last with this status.
    Failed(u16),
}

/// The instruments of the gateway.
#[derive(Debug)]
pub(crate) struct Metrics {
    messages: Counter<u64>,
    latency: Histogram<f64>,
    in_flight: UpDownCounter<i64>,
    connections: UpDownCounter<i64>,
    refused_connections: Counter<u64>,
    token_lookups: Counter<u64>,
    slow_clients: Counter<u64>,
    take_overs: Counter<u64>,
    responses: Counter<u64>,
    pushes: Counter<u64>,
    expired: Counter<u64>,
    notices_dropped: Counter<u64>,
    too_large_for_client: Counter<u64>,
    authentications: Counter<u64>,
    unauthenticated: Counter<u64>,
    throttled: Counter<u64>,
    closed: Counter<u64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let meter = opentelemetry::global::meter("kpc");
        let counter =
            |name: &'static str, what: &'static str| meter.u64_counter(name).with_description(what).build();
        let gauge = |name: &'static str, what: &'static str| {
            meter.i64_up_down_counter(name).with_description(what).build()
        };
        Self {
            messages: counter(
                "bandar_kpc_messages",
                "Messages from devices, by application, transport, outcome and status",
            ),
            latency: meter
                .f64_histogram("bandar_kpc_relay_duration_seconds")
                .with_description("From a device's message to the extension's answer")
                .with_boundaries(vec![
                    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
                ])
                .build(),
            in_flight: gauge(
                "bandar_kpc_in_flight_messages",
                "Messages that wait for their extension's answer",
            ),
            connections: gauge("bandar_kpc_connections", "Open MQTT connections"),
            refused_connections: counter(
                "bandar_kpc_refused_connections",
                "MQTT connections refused, by reason",
            ),
            token_lookups: counter(
                "bandar_kpc_token_lookups",
                "Endpoint tokens looked up, by where the answer was",
            ),
            slow_clients: counter(
                "bandar_kpc_slow_clients",
                "Clients disconnected because they did not read",
            ),
            take_overs: counter(
                "bandar_kpc_take_overs",
                "Connections closed because their client connected anew",
            ),
            responses: counter("bandar_kpc_responses", "Responses sent to devices, by who asked"),
            pushes: counter("bandar_kpc_pushes", "Pushed messages for endpoints, by outcome"),
            expired: counter(
                "bandar_kpc_expired_messages",
                "Messages for devices that came after their deadline",
            ),
            notices_dropped: counter(
                "bandar_kpc_notices_dropped",
                "Notices to other services not sent: NATS is away",
            ),
            too_large_for_client: counter(
                "bandar_kpc_too_large_for_client",
                "Messages not sent to a client because it takes only smaller ones",
            ),
            authentications: counter(
                "bandar_kpc_authentications",
                "Clients' credentials looked up, by method and outcome",
            ),
            unauthenticated: counter(
                "bandar_kpc_unauthenticated",
                "Connections refused or ended because their tenant requires credentials, by transport",
            ),
            throttled: counter(
                "bandar_kpc_throttled",
                "Logins and tokens not looked up, and connections closed, because of too many wrong ones before",
            ),
            closed: counter(
                "bandar_kpc_closed_connections",
                "Connections closed because their client may no longer be connected, by reason",
            ),
        }
    }

    /// One message has come to its end. Its application is told only when the register knows it, so that nobody can
    /// invent labels.
    pub(crate) fn message(&self, transport: Transport, outcome: Outcome, passage: &Passage) {
        let (outcome, status) = match outcome {
            Outcome::Stored => ("stored", 200),
            Outcome::Refused(status) => ("refused", status),
            Outcome::Failed(status) => ("failed", status),
        };
        let application = passage.application.as_ref().map_or("", ApplicationName::as_str);
        let transport = KeyValue::new("transport", transport.name());
        // In the order of their keys: so they are found at once, without being sorted.
        let labels = [
            KeyValue::new("application", application.to_owned()),
            KeyValue::new("outcome", outcome),
            KeyValue::new("status", i64::from(status)),
            transport.clone(),
        ];
        self.messages.add(1, &labels);
        self.latency.record(passage.since.elapsed().as_secs_f64(), &[transport]);
    }

    /// A message begins or ends to be in flight.
    pub(crate) fn in_flight(&self, change: i64) {
        self.in_flight.add(change, &[]);
    }

    pub(crate) fn connections(&self, change: i64) {
        self.connections.add(change, &[]);
    }

    pub(crate) fn refused_connection(&self, reason: &'static str) {
        self.refused_connections.add(1, &[KeyValue::new("reason", reason)]);
    }

    /// `method`: `basic` or `certificate`; `outcome`: `ok` or why not.
    pub(crate) fn authentication(&self, method: &'static str, outcome: &'static str) {
        let labels = [KeyValue::new("method", method), KeyValue::new("outcome", outcome)];
        self.authentications.add(1, &labels);
    }

    pub(crate) fn unauthenticated(&self, transport: peer::Transport) {
        self.unauthenticated.add(1, &[KeyValue::new("transport", transport.name())]);
    }

    /// `what`: `login`, `token` (not looked up) or `connection` (closed).
    pub(crate) fn throttled(&self, what: &'static str) {
        self.throttled.add(1, &[KeyValue::new("what", what)]);
    }

    /// `reason`: `credentials`, `certificate`, `switch` or `recheck`.
    pub(crate) fn closed(&self, reason: &'static str) {
        self.closed.add(1, &[KeyValue::new("reason", reason)]);
    }

    /// `found`: `cached`, `refused` (remembered refusal) or `asked`.
    pub(crate) fn token_lookup(&self, found: &'static str) {
        self.token_lookups.add(1, &[KeyValue::new("found", found)]);
    }

    pub(crate) fn slow_client(&self) {
        self.slow_clients.add(1, &[]);
    }

    pub(crate) fn take_over(&self) {
        self.take_overs.add(1, &[]);
    }

    /// `to`: `asker` or `subscriber`.
    pub(crate) fn response(&self, to: &'static str) {
        self.responses.add(1, &[KeyValue::new("to", to)]);
    }

    /// `outcome`: `delivered`, `not_here` or `failed`.
    pub(crate) fn push(&self, outcome: &'static str) {
        self.pushes.add(1, &[KeyValue::new("outcome", outcome)]);
    }

    pub(crate) fn expired(&self) {
        self.expired.add(1, &[]);
    }

    pub(crate) fn notice_dropped(&self) {
        self.notices_dropped.add(1, &[]);
    }

    pub(crate) fn too_large_for_client(&self) {
        self.too_large_for_client.add(1, &[]);
    }
}
