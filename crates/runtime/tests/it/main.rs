//! The runtime on a real NATS.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod applications;
mod platform;
mod requester;
mod telemetry;
