//! epmx on a real NATS, between a gateway, an application register and an endpoint register that the test plays.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access;
mod bed;
mod faults;
mod requests;
