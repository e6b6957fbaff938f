//! What can go wrong with the database.

use sqlx::migrate::MigrateError;

/// Why a service's part of the database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings are wrong; the text names the key and the fix.
    #[error("{0}")]
    Config(String),
    /// The name of the service cannot be a schema.
    #[error(
        "{0:?} cannot be the name of a schema: use 1 to 48 characters out of a-z 0-9 _, the first a letter"
    )]
    ServiceName(&'static str),
    /// The server refused the connection for good.
    #[error("PostgreSQL at {server} refused the login of {user:?}: check postgres.url")]
    Login {
        /// Host and port, or the folder of the socket.
        server: String,
        /// The login role.
        user: String,
        /// What the server said.
        source: sqlx::Error,
    },
    /// The login role may not make what is missing.
    #[error(
        "the login role {user:?} may not prepare the database for {service:?}; let an administrator run in that database:\n{sql}"
    )]
    Privilege {
        /// The service.
        service: &'static str,
        /// The login role.
        user: String,
        /// The missing statements, ready to run.
        sql: String,
        /// What the server said.
        source: sqlx::Error,
    },
    /// A migration failed or does not fit the ones that were applied before.
    #[error("the migrations of {service:?} could not be applied")]
    Migrate {
        /// The service.
        service: &'static str,
        /// Which one and why.
        source: MigrateError,
    },
    /// Any other failure of a statement while preparing.
    #[error("cannot prepare the database for {service:?}")]
    Prepare {
        /// The service.
        service: &'static str,
        /// The failure.
        source: sqlx::Error,
    },
}

/// The name of the constraint that a statement broke.
#[must_use]
pub fn violated_constraint(error: &sqlx::Error) -> Option<&str> {
    error.as_database_error()?.constraint()
}

/// Gives a broken constraint its meaning.
///
/// ```
/// # use store::ConstraintExt as _;
/// # #[derive(Debug)] enum Failure { Taken, Database(sqlx::Error) }
/// # impl From<sqlx::Error> for Failure { fn from(error: sqlx::Error) -> Self { Self::Database(error) } }
/// # fn f(inserted: sqlx::Result<()>) -> Result<(), Failure> {
/// inserted.on_constraint("applications_name_key", || Failure::Taken)?;
/// # Ok(())
/// # }
/// ```
pub trait ConstraintExt<T> {
    /// The error of `meaning` when the constraint named `name` was broken; any other error as it is.
    fn on_constraint<E: From<sqlx::Error>>(self, name: &str, meaning: impl FnOnce() -> E) -> Result<T, E>;
}

impl<T> ConstraintExt<T> for sqlx::Result<T> {
    fn on_constraint<E: From<sqlx::Error>>(self, name: &str, meaning: impl FnOnce() -> E) -> Result<T, E> {
        self.map_err(
            |error| if violated_constraint(&error) == Some(name) { meaning() } else { E::from(error) },
        )
    }
}
