//! The edge over real sockets.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod api;
mod limits;
mod permissions;
mod shutdown;
mod site;
mod tls;
