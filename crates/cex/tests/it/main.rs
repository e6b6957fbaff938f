//! cex on real NATS and PostgreSQL, between registers and a gateway that the test plays.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod batches;
mod bed;
mod delivery;
mod feed;
mod rest;
mod topics;
