//! The pool of a service.

use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection, PgPool};
use tokio::time::{Instant, sleep, timeout};

use crate::provision::{Place, provision};
use crate::{Config, Error};

/// A connection that lay unused for longer than this is tried before it is given out, so that a restart of the server is seen
/// here and not by a query. Under load nothing is tried, which saves a round trip per query.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause between two attempts to connect grows up to this.
const RETRY_MAX: Duration = Duration::from_secs(2);

/// How often to tell that the server still does not answer.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// A commit is on the disk before it is answered, whatever the default of the database. Stronger settings stay as they are.
const DURABLE_COMMIT: &str = "SELECT set_config('synchronous_commit', 'local', false) WHERE current_setting('synchronous_commit') = 'off'";

/// A transaction that does nothing for so long was forgotten: the server ends it and frees its locks.
const IDLE_IN_TRANSACTION_MS: u32 = 60_000;

/// Prepares the database for a service, applies its migrations, and returns its pool.
///
/// While the server cannot be reached or is starting up, this tries again without end: drop the future to give up. Several replicas
/// may open at once; one applies the migrations while the others wait. Migrations unknown to this build, applied by a newer
/// one, are accepted, because versions N and N+1 run side by side.
///
/// # Errors
/// When the settings or the login are wrong, when the login role lacks a privilege (the error then holds the SQL for an
/// administrator), or when a migration fails.
pub async fn open(
    config: &Config,
    service: &'static str,
    migrator: &'static Migrator,
) -> Result<PgPool, Error> {
    let place = Place::new(service)?;
    let options = config.options().map_err(Error::Config)?.application_name(&format!("bandar-{service}"));
    let mut connection = connect(&options, service).await?;
    provision(&mut connection, &place, options.get_username()).await?;
    migrate(&mut connection, &place, migrator).await?;
    tell_if_not_durable(&mut connection, service).await;
    // The advisory lock goes with the connection.
    let _ = connection.close().await;
    Ok(pool(config, &place, options))
}

/// A receipt promises that what was committed stays. `synchronous_commit` is set for each session; `fsync` only the operator
/// can turn on.
async fn tell_if_not_durable(connection: &mut PgConnection, service: &'static str) {
    let fsync: Result<String, _> = sqlx::query_scalar("SHOW fsync").fetch_one(connection).await;
    if fsync.is_ok_and(|fsync| fsync == "off") {
        tracing::error!(
            service,
            "PostgreSQL runs with fsync = off: after a power failure, receipts will have been false"
        );
    }
}

/// Connects, and waits for a server that does not answer yet.
async fn connect(options: &PgConnectOptions, service: &'static str) -> Result<PgConnection, Error> {
    let server = server(options);
    let mut pause = Duration::from_millis(50);
    let mut told: Option<Instant> = None;
    loop {
        let failure = match timeout(CONNECT_TIMEOUT, options.connect()).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(source)) if !may_pass(&source) => {
                let user = options.get_username().to_owned();
                return Err(Error::Login { server, user, source });
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {CONNECT_TIMEOUT:?}"),
        };
        if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            tracing::warn!(service, server, failure, "PostgreSQL cannot be reached; trying again");
            told = Some(Instant::now());
        }
        sleep(pause).await;
        pause = RETRY_MAX.min(pause * 2);
    }
}

fn server(options: &PgConnectOptions) -> String {
    match options.get_socket() {
        Some(folder) => folder.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    }
}

/// Whether a later attempt to connect may succeed without a change of the settings.
fn may_pass(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) => true,
        // The server starts, stops or is full (cannot_connect_now, admin_shutdown, crash_shutdown, too_many_connections).
        sqlx::Error::Database(error) => {
            matches!(error.code().as_deref(), Some("57P03" | "57P01" | "57P02" | "53300"))
        }
        _ => false,
    }
}

async fn migrate(connection: &mut PgConnection, place: &Place, migrator: &Migrator) -> Result<(), Error> {
    let service = place.service();
    // A migration that waits for a lock on a busy table holds up everybody behind it: better to fail and start again.
    let session = format!("{}; SET lock_timeout = '30s'", place.session());
    connection.execute(AssertSqlSafe(session)).await.map_err(|source| Error::Prepare { service, source })?;
    let mut migrations = Migrator::with_migrations(migrator.iter().cloned().collect());
    migrations.set_ignore_missing(true).set_locking(false);
    // `run` is the same, but its bounds hide from the compiler that the future may move between threads.
    migrations.run_direct(None, connection, false).await.map_err(|source| Error::Migrate { service, source })
}

fn pool(config: &Config, place: &Place, options: PgConnectOptions) -> PgPool {
    let session: Arc<str> = format!(
        "{}; {DURABLE_COMMIT}; SET statement_timeout = {}; SET idle_in_transaction_session_timeout = {IDLE_IN_TRANSACTION_MS}",
        place.session(),
        config.statement_timeout_ms
    )
    .into();
    PgPoolOptions::new()
        .max_connections(config.max_connections)
        .acquire_timeout(config.acquire_timeout())
        .after_connect(move |connection, _| {
            let session = Arc::clone(&session);
            Box::pin(async move { connection.execute(AssertSqlSafe(session)).await.map(drop) })
        })
        .test_before_acquire(false)
        .before_acquire(|connection, state| {
            Box::pin(async move { Ok(state.idle_for < TRUSTED_IDLE || connection.ping().await.is_ok()) })
        })
        .connect_lazy_with(options)
}
