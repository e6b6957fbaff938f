//! `bandar` as its users meet it: the real binary, with a NATS server and a PostgreSQL of its own.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod commands;
mod configuration;
mod life;
mod nats_users;
mod platform;
