//! A service's own schema, role and migrations in PostgreSQL.
//!
//! All services share one database, and none can read another's tables: [`open`] gives each a schema named as the service, owned by the
//! role `bandar_<service>`, and every connection of its pool works as that role with only that schema in its search path. So
//! SQL and migrations name tables without a schema.

mod config;
mod error;
mod pool;
mod provision;

pub use config::Config;
pub use error::{ConstraintExt, Error, violated_constraint};
pub use pool::open;
