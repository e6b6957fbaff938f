//! The service on a real NATS and PostgreSQL, with a register of applications that the tests fill.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bed;
mod extraction;
mod faults;
mod limits;
mod permissions;
mod queries;
mod receipt;
mod removals;
mod retention;
mod stamps;
mod throughput;
mod transmitted;
mod update;
