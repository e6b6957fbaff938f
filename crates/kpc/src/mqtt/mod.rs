//! MQTT 3.1.1 and 5 over TCP, TLS and WebSocket. Everything that knows the MQTT library is in this module.
//!
//! The library serves each connection on one of a few worker threads, and its connections cannot leave that thread. The
//! rest of the gateway reaches them through their outboxes (see `outbox`).
//!
//! | file | what |
//! |---|---|
//! | `server` | the listeners and their threads |
//! | `arrival` | a socket until MQTT begins |
//! | `handover` | sockets that came in elsewhere |
//! | `tls`, `websocket` | the handshakes before MQTT |
//! | `frames` | WebSocket after its handshake |
//! | `session` | CONNECT, CONNACK, the end of a connection |
//! | `publish` | PUBLISH in, and its acknowledgement |
//! | `subscribe` | SUBSCRIBE and UNSUBSCRIBE |
//! | `drain` | PUBLISH out: emptying outboxes |
//! | `codes` | MQTT's reason codes for our statuses |

mod arrival;
mod codes;
mod drain;
mod frames;
mod handover;
mod publish;
mod server;
mod session;
mod subscribe;
mod tls;
mod websocket;

pub(crate) use arrival::Held;
pub(crate) use handover::{Handed, Handover, Socket};
pub(crate) use server::{CLOSE_PATIENCE, Server, bind, serve};
pub(crate) use websocket::{Answer, opening};
