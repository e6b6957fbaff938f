//! The ledger of commands. Every transition is decided in the database, by a statement that holds the command's row, so
//! replicas never disagree; what is final stays.
//!
//! Locks are taken in this order, so that nothing deadlocks: idempotency keys, lanes (both sorted), commands. Whoever locks
//! several commands and waits for them holds their lanes; all others lock one, or skip those that are locked. Times are
//! the database's: `statement_timestamp()` in a statement after the locks is later than all that was committed before.

mod cancel;
mod claims;
mod end;
pub(crate) mod feed;
mod invoke;
mod journal;
mod keys;
mod lanes;
mod news;
mod polls;
mod pushes;
mod reads;
mod results;
mod settle;
mod wake;
mod writer;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use ids::{ApplicationName, CommandType, EndpointId, TenantId};
use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnectOptions;
use sqlx::{PgPool, Postgres, Transaction};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::changes::Changes;
use crate::config::Config;
use crate::domain::{CommandKey, CommandName, Lane, Payload, State, Status};

pub(crate) use cancel::ENDPOINT_DELETED;
pub(crate) use feed::ConnectivityChange;
pub(crate) use reads::LIST_BYTES_MAX;

use journal::Journal;
use news::News;
use writer::Writers;

pub(crate) static MIGRATOR: Migrator = sqlx::migrate!("./migrations");

/// Has the connections of a pool that was just opened look rows up by an index wherever there is one. A plan that PostgreSQL made
/// while a table was small, and keeps, would read all of the table until it is analysed anew.
pub(crate) fn look_up_by_index(pool: &PgPool) {
    let options = PgConnectOptions::clone(&pool.connect_options());
    pool.set_connect_options(options.options([("enable_seqscan", "off")]));
}

/// What became of an invocation.
#[derive(Debug, Clone)]
pub(crate) enum Invoked {
    /// It is in the ledger. With a claim the caller must push it now.
    New { name: CommandName, claim: Option<Claim> },
    /// It was there before, under the same idempotency key.
    Repeated { name: CommandName },
    /// The idempotency key belongs to another request.
    KeyReused,
    /// The endpoint has too many outstanding commands; so many.
    TooMany(u32),
}

/// The right to push the due commands of a lane, until the lease ends.
#[derive(Debug, Clone)]
pub(crate) struct Claim {
    pub(crate) lane: Lane,
    pub(crate) application: ApplicationName,
    pub(crate) lease: i64,
    /// When it was claimed.
    began_at: DateTime<Utc>,
    /// Until then the push may still deliver; the lease ends then, too.
    until: DateTime<Utc>,
    /// The topic outside of 1/KP where the device listens; then it is one command, and its payload goes as it is.
    pub(crate) topic: Option<String>,
    /// In the order of their ids; never empty.
    pub(crate) commands: Vec<Due>,
    /// When the push must be over: no later than any of the commands lives.
    pub(crate) deadline: Instant,
}

/// A command that is pushed.
#[derive(Debug, Clone)]
pub(crate) struct Due {
    pub(crate) key: CommandKey,
    pub(crate) command_id: i32,
    pub(crate) payload: Option<Payload>,
}

/// How a push ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// The device acknowledged.
    Delivered,
    /// Nobody holds the endpoint; it has got nothing.
    Offline,
    /// It may have got it.
    Unknown,
}

/// What became of the wish to cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cancelled {
    /// It will not be delivered from now on. Also when it was cancelled before.
    Confirmed,
    /// It will not be sent again, but an attempt is under way that ends at this moment at the latest; then it is cancelled.
    Awaited(DateTime<Utc>),
    /// It had ended otherwise.
    Ended(State),
    /// There is no such command.
    Unknown,
}

/// A page of the history of an application.
#[derive(Debug, Clone)]
pub(crate) struct History {
    pub(crate) tenant: TenantId,
    pub(crate) application: ApplicationName,
    pub(crate) endpoints: Vec<EndpointId>,
    pub(crate) command_types: Vec<CommandType>,
    pub(crate) statuses: Vec<Status>,
    pub(crate) from: Option<DateTime<Utc>>,
    pub(crate) to: Option<DateTime<Utc>>,
    /// Oldest first instead of newest first.
    pub(crate) ascending: bool,
    pub(crate) offset: i64,
    pub(crate) limit: i64,
}

/// All statements about commands. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Ledger {
    shared: Arc<Shared>,
    writers: Writers,
}

/// What all statements need.
struct Shared {
    pool: PgPool,
    config: Arc<Config>,
    news: News,
    /// Something has become due that nobody has claimed.
    due: Arc<Notify>,
}

impl Ledger {
    /// Begins to write what happens to commands: needs a runtime.
    pub(crate) fn new(pool: PgPool, config: Arc<Config>, changes: Arc<Changes>) -> Self {
        let shared = Arc::new(Shared { pool, config, news: News::new(changes), due: Arc::default() });
        Self { writers: Writers::start(&shared), shared }
    }

    /// Notified when something has become due that nobody has claimed: the time to call [`due`](Self::due).
    pub(crate) fn work(&self) -> Arc<Notify> {
        self.shared.due.clone()
    }
}

impl Shared {
    /// Writes down what has happened, commits, and tells it.
    async fn commit(&self, mut transaction: Transaction<'_, Postgres>, journal: Journal) -> sqlx::Result<()> {
        journal.write(&mut transaction).await?;
        transaction.commit().await?;
        self.news.tell(journal.into_happenings());
        Ok(())
    }
}

/// Milliseconds as PostgreSQL takes them.
fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A number of milliseconds of the configuration as PostgreSQL takes it.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// An outstanding command in the answer to a device's poll.
#[derive(Debug, Clone)]
pub(crate) struct HandedOut {
    pub(crate) command_type: CommandType,
    pub(crate) command_id: i32,
    pub(crate) payload: Option<Payload>,
}
