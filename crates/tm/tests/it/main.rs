//! The tenant manager on real NATS and PostgreSQL, called over HTTP.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod api_keys;
mod bed;
mod bootstrap;
mod keys;
mod login;
mod oidc;
mod refresh;
mod secrets;
mod tenants;
mod tokens;
mod users;
