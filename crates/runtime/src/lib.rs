//! What every service of the platform runs on.
//!
//! A service is a type that implements [`Service`]: a configuration and a `start`. A process runs any number of them
//! ([`Platform`]); each gets its own [`Context`] with its own NATS connection, tasks and end. What a service asks of
//! another it asks over NATS ([`Requester`]), settings of an application it reads through [`Applications`].

mod access;
mod applications;
mod configuration;
mod context;
mod description;
mod endpoints;
mod health;
mod nats;
mod nats_users;
mod platform;
mod process;
mod register;
mod requester;
mod secret_key;
mod service;
mod settings;
mod subjects;
mod subscription;
pub mod telemetry;
mod tenants;
pub mod trace;

pub use applications::{Application, Applications, Version};
pub use context::Context;
pub use description::Description;
pub use nats::Config as NatsConfig;
pub use nats_users::{NatsUser, nats_authorization, nats_users};
pub use platform::{Platform, ProcessConfig};
pub use process::{StopSignal, main};
pub use register::LookupError;
pub use requester::{Replies, RequestError, Requester};
pub use secret_key::{InvalidSecretKey, secret_key};
pub use service::{Entry, Service, entry};
pub use settings::{Fault, Faults, Settings};
pub use subjects::{Permissions, Subjects};
pub use subscription::Subscription;
pub use tenants::{Changes, Tenants};

/// Milliseconds since the Unix epoch: the `timestamp` of inter-service messages (3/ISM).
#[must_use]
pub fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
