//! The gateway on a real NATS, with clients, an extension and registers that the tests play.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod ccm;
mod certificates;
mod client;
mod clients;
mod connectivity;
mod downlink;
mod guessing;
mod http;
mod limits;
mod mqtt3;
mod mqtt5;
mod outage;
mod push;
mod replicas;
mod starting;
mod switches;
mod telemetry;
mod tls;
mod tls_port;
mod topics;
mod traffic;
mod websocket;
mod wills;
mod world;
