//! What every service of the platform runs on.
//!
//! A service is a type that implements [`Service`]: a configuration and a `start`. A process runs any number of them
//! ([`Platform`]); each gets its own [`Context`] with its own NATS connection, tasks and end. What a service asks of
//! another it asks over NATS ([`Requester`]), settings of an application it reads through [`Applications`].

mod applications;
mod context;
mod endpoints;
mod health;
mod nats;
mod platform;
mod process;
mod requester;
mod service;
mod settings;
mod subscription;
pub mod telemetry;
pub mod trace;

pub use applications::{Application, Applications, LookupError, Version};
pub use context::Context;
pub use nats::Config as NatsConfig;
pub use platform::{Platform, ProcessConfig};
pub use process::{main, stop_signal};
pub use requester::{Replies, RequestError, Requester};
pub use service::{Entry, Service, entry};
pub use settings::{Fault, Faults, Settings};
pub use subscription::Subscription;

/// Milliseconds since the Unix epoch: the `timestamp` of inter-service messages (3/ISM).
#[must_use]
pub fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
