//! What the platform stands on: a nats-server and a PostgreSQL of its own, where none is given.

mod account;
mod child;
mod nats;
mod place;
pub(crate) mod ports;
mod postgres;
mod programs;

use std::time::Duration;

use runtime::NatsUser;

use self::child::Child;
use self::nats::Nats;
use self::postgres::Postgres;
use crate::data::{DataDir, Secrets};

const NATS_PATIENCE: Duration = Duration::from_secs(60);
/// After a crash PostgreSQL first replays its log, up to two gigabytes of it.
const POSTGRES_PATIENCE: Duration = Duration::from_secs(600);

/// Which of the two the platform must bring itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) nats: bool,
    pub(crate) postgres: bool,
}

/// The running servers. Dropping it stops them, PostgreSQL first.
pub(crate) struct Backing {
    // Fields are dropped in this order.
    postgres: Option<Child<Postgres>>,
    nats: Option<Child<Nats>>,
    settings: Vec<(String, String)>,
    nats_url: Option<String>,
}

impl Backing {
    /// Starts what is wanted and waits until it serves. Blocks; on the first start for a few seconds.
    pub(crate) fn start(
        wanted: Wanted,
        data: &DataDir,
        secrets: &Secrets,
        users: &[NatsUser],
    ) -> anyhow::Result<Self> {
        let mut backing = Self { postgres: None, nats: None, settings: Vec::new(), nats_url: None };
        // Both programs are found before either is started, so that a missing one is told at once.
        let nats = wanted.nats.then(|| Nats::new(data, secrets, users)).transpose()?;
        let postgres = wanted.postgres.then(|| Postgres::new(data, secrets)).transpose()?;
        if let Some(nats) = nats {
            backing.settings.push(("nats.url".to_owned(), nats.url()));
            backing.settings.extend(users.iter().map(|user| {
                (format!("nats.users.{}", user.name), secrets.nats_password(&user.name).to_owned())
            }));
            backing.nats_url = Some(nats.url());
            backing.nats = Some(Child::start(nats)?);
        }
        if let Some(postgres) = postgres {
            let settings = postgres.settings().into_iter();
            backing.settings.extend(settings.map(|(key, value)| (key.to_owned(), value)));
            backing.postgres = Some(Child::start(postgres)?);
        }
        if let Some(nats) = &backing.nats {
            nats.wait_ready(NATS_PATIENCE)?;
        }
        if let Some(postgres) = &backing.postgres {
            postgres.wait_ready(POSTGRES_PATIENCE)?;
        }
        Ok(backing)
    }

    /// The settings that lead the services to these servers.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        self.settings.clone()
    }

    /// Where the platform's own nats-server listens, if there is one.
    pub(crate) fn nats_url(&self) -> Option<&str> {
        self.nats_url.as_deref()
    }
}
