//! The gateway on a real NATS, with clients, an extension and registers that the tests play.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod client;
mod downlink;
mod http;
mod limits;
mod mqtt3;
mod mqtt5;
mod replicas;
mod starting;
mod telemetry;
mod wills;
mod world;
