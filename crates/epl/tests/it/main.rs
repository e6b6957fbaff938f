//! epl on real NATS and PostgreSQL, between gateways, registers and a receiver of time series that the test plays.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bed;
mod gateways;
mod outages;
mod permissions;
mod transitions;
