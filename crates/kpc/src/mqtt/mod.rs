//! MQTT 3.1.1 and 5 on one listener. Everything that knows the MQTT library is in this module.
//!
//! The library serves each connection on one of a few worker threads, and its connections cannot leave that thread. The
//! rest of the gateway reaches them through their outboxes (see `outbox`).
//!
//! | file | what |
//! |---|---|
//! | `server` | the listener and its threads |
//! | `session` | CONNECT, CONNACK, the end of a connection |
//! | `publish` | PUBLISH in, and its acknowledgement |
//! | `subscribe` | SUBSCRIBE and UNSUBSCRIBE |
//! | `drain` | PUBLISH out: emptying outboxes |
//! | `codes` | MQTT's reason codes for our statuses |

mod codes;
mod drain;
mod publish;
mod server;
mod session;
mod subscribe;

pub(crate) use server::{CLOSE_PATIENCE, Server, serve};
