//! What a service is.

use std::future::Future;
use std::pin::Pin;

use serde::de::DeserializeOwned;

use crate::{Context, Description, Fault, Settings, Subjects};

/// A service of the platform: a configuration section and a way to start.
pub trait Service: 'static {
    /// The service's name: its configuration section, its instance name (3/ISM), its schema in PostgreSQL.
    const NAME: &'static str;

    /// The configuration section; deny unknown fields and give every key a default.
    type Config: DeserializeOwned + Send + 'static;

    /// Whether the service keeps data: then `[postgres]` must be configured.
    const POSTGRES: bool = false;

    /// What the service says of itself to the application register, if applications are configured for it.
    const DESCRIPTION: Option<Description> = None;

    /// What the service may do on NATS; with an account user for each service, the server refuses the rest.
    fn subjects() -> Subjects;

    /// Faults of a configuration that its types cannot express, as (key, message).
    fn check(_config: &Self::Config) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// Starts the service and returns once it serves; what goes on is spawned on the context.
    fn start(config: Self::Config, context: Context) -> impl Future<Output = anyhow::Result<()>> + Send;
}

pub(crate) type Starting = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;
pub(crate) type Starter = Box<dyn FnOnce(Context) -> Starting + Send>;

/// A service with its type forgotten, so that a process can hold a list of them.
#[derive(Clone, Copy)]
pub struct Entry {
    /// The service's name.
    pub name: &'static str,
    pub(crate) postgres: bool,
    pub(crate) description: Option<Description>,
    subjects: fn() -> Subjects,
    pub(crate) prepare: fn(&Settings) -> Result<Starter, Vec<Fault>>,
}

/// The entry of a service type.
#[must_use]
pub fn entry<S: Service>() -> Entry {
    Entry {
        name: S::NAME,
        postgres: S::POSTGRES,
        description: S::DESCRIPTION,
        subjects: S::subjects,
        prepare: prepare::<S>,
    }
}

impl Entry {
    /// What the service may do on NATS.
    #[must_use]
    pub fn subjects(&self) -> Subjects {
        let own = (self.subjects)();
        if self.description.is_some() { own.announces_itself() } else { own }
    }
}

/// Reads and checks the configuration; what is left is to start.
fn prepare<S: Service>(settings: &Settings) -> Result<Starter, Vec<Fault>> {
    let config: S::Config = settings.section(S::NAME)?;
    let faults: Vec<Fault> = S::check(&config)
        .into_iter()
        .map(|(key, message)| Fault { key: format!("{}.{key}", S::NAME), message, origin: None })
        .collect();
    if faults.is_empty() { Ok(Box::new(|context| Box::pin(S::start(config, context)))) } else { Err(faults) }
}
