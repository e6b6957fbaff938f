//! The service's tables. Everything here is scoped to a tenant, except what other services ask for by a
//! unique name.

mod applications;
mod configs;

use sqlx::PgPool;

pub(crate) use applications::NewVersion;
pub(crate) use configs::{Change, Configuration};

use crate::config::Config;

/// The migrations of the schema.
pub(crate) static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// Applications, versions and configuration in PostgreSQL. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Store {
    pool: PgPool,
    limits: Config,
}

impl Store {
    pub(crate) fn new(pool: PgPool, limits: Config) -> Self {
        Self { pool, limits }
    }
}
