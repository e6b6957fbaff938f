//! The edge over real sockets.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod api;
mod limits;
mod shutdown;
mod site;
