//! The service's tables. Everything here is scoped to a tenant, except what other services ask for by a
//! unique name, and the service instances, which are the same for all tenants.

mod applications;
mod blocks;
mod bulk;
mod configs;
mod deletions;
mod instances;

use sqlx::PgPool;

pub(crate) use applications::{NewApplication, NewVersion};
pub(crate) use bulk::Selection;
pub(crate) use configs::{Change, Configuration};
pub(crate) use deletions::Deletion;

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

    pub(crate) fn limits(&self) -> &Config {
        &self.limits
    }
}
