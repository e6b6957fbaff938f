//! The end of commands that nothing came of, and of what was kept long enough.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::journal::Journal;
use super::{Ledger, reads, signed};
use crate::domain::{CommandKey, CommandName, State};
use ids::ApplicationName;

/// A cancellation comes before the end of the time to live. What an attempt may still deliver does not end. (IS TRUE keeps
/// the planner from reading all that is outstanding, each time, to join it with the few rows that were found.)
const END: &str = "
WITH cancelled AS (
    SELECT command_key, state AS was FROM commands
    WHERE cancel_reason IS NOT NULL AND state IN ('CREATED', 'SENT', 'DELIVERED')
        AND (attempt_until IS NULL OR attempt_until <= statement_timestamp())
    LIMIT $1 FOR UPDATE SKIP LOCKED),
expired AS (
    SELECT command_key, state AS was FROM commands
    WHERE expires_at <= statement_timestamp() AND state IN ('CREATED', 'SENT', 'DELIVERED') AND cancel_reason IS NULL
        AND (attempt_until IS NULL OR attempt_until <= statement_timestamp())
    ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED),
ending AS (SELECT * FROM cancelled UNION ALL SELECT * FROM expired)
UPDATE commands c SET updated_at = statement_timestamp(),
    state = CASE WHEN c.cancel_reason IS NOT NULL THEN 'CANCELLED'
        WHEN c.is_once AND c.state <> 'DELIVERED' THEN 'UNDELIVERED' ELSE 'EXPIRED' END
FROM ending e
WHERE c.command_key = e.command_key AND (c.state IN ('CREATED', 'SENT', 'DELIVERED')) IS TRUE
    AND (c.attempt_until IS NULL OR c.attempt_until <= statement_timestamp())
    AND (c.cancel_reason IS NOT NULL OR (c.expires_at <= statement_timestamp()) IS TRUE)
RETURNING c.command_key, c.tenant_id, c.endpoint_id, c.command_type, c.command_id, c.application_name, e.was, c.state,
    c.attempts, c.cancel_reason, statement_timestamp() AS now";

/// A batch counts its commands when the last of them has ended.
const PURGE_COMMANDS: &str = "
WITH old AS (
    SELECT command_key FROM commands
    WHERE state IN ('EXECUTED', 'UNDELIVERED', 'EXPIRED', 'CANCELLED')
        AND updated_at < statement_timestamp() - $2 * interval '1 millisecond'
        AND (batch_key IS NULL OR EXISTS (SELECT FROM batches b WHERE b.batch_key = commands.batch_key AND b.ended_at IS NOT NULL))
    ORDER BY updated_at LIMIT $1 FOR UPDATE SKIP LOCKED),
last AS (
    SELECT DISTINCT ON (t.tenant_id, t.application_name) t.tenant_id, t.application_name, t.xact_id
    FROM transitions t JOIN old USING (command_key) ORDER BY t.tenant_id, t.application_name, t.xact_id DESC),
floor AS (
    INSERT INTO feed_floors AS f (tenant_id, application_name, xact_id)
    SELECT tenant_id, application_name, xact_id FROM last ORDER BY tenant_id, application_name
    ON CONFLICT (tenant_id, application_name) DO UPDATE SET xact_id = excluded.xact_id WHERE f.xact_id < excluded.xact_id)
DELETE FROM commands c USING old WHERE c.command_key = old.command_key";

const PURGE_CONNECTIVITY: &str = "
WITH old AS (
    DELETE FROM connectivity WHERE connectivity_key IN (
        SELECT connectivity_key FROM connectivity
        WHERE at < statement_timestamp() - $2 * interval '1 millisecond' ORDER BY at LIMIT $1)
    RETURNING tenant_id, application_name, xact_id),
last AS (
    SELECT DISTINCT ON (tenant_id, application_name) tenant_id, application_name, xact_id
    FROM old ORDER BY tenant_id, application_name, xact_id DESC),
floor AS (
    INSERT INTO feed_floors AS f (tenant_id, application_name, xact_id)
    SELECT tenant_id, application_name, xact_id FROM last ORDER BY tenant_id, application_name
    ON CONFLICT (tenant_id, application_name) DO UPDATE SET xact_id = excluded.xact_id WHERE f.xact_id < excluded.xact_id)
SELECT count(*) FROM old";

const PURGE_BATCHES: &str = "
DELETE FROM batches WHERE batch_key IN (
    SELECT b.batch_key FROM batches b
    WHERE b.ended_at < statement_timestamp() - $2 * interval '1 millisecond'
        AND NOT EXISTS (SELECT FROM commands c WHERE c.batch_key = b.batch_key)
    ORDER BY b.batch_key LIMIT $1)";

const PURGE_RESPONSES: &str = "
DELETE FROM responses WHERE response_key IN (
    SELECT response_key FROM responses
    WHERE created_at < statement_timestamp() - $2 * interval '1 millisecond' ORDER BY created_at LIMIT $1)";

#[derive(sqlx::FromRow)]
pub(super) struct EndedRow {
    command_key: i64,
    tenant_id: String,
    endpoint_id: String,
    command_type: String,
    command_id: i32,
    #[sqlx(try_from = "String")]
    application_name: ApplicationName,
    was: String,
    state: String,
    attempts: i32,
    cancel_reason: Option<String>,
    now: DateTime<Utc>,
}

impl EndedRow {
    pub(super) fn write_down(&self, journal: &mut Journal) -> sqlx::Result<()> {
        let lane = reads::lane(&self.tenant_id, &self.endpoint_id, &self.command_type)?;
        let name = CommandName { lane, command_id: self.command_id };
        let (Some(was), Some(state)) = (State::parse(&self.was), State::parse(&self.state)) else {
            return Ok(());
        };
        if state.is_final() {
            let reason = match state {
                State::Cancelled => self.cancel_reason.as_deref().unwrap_or_default(),
                _ => reason(was, self.attempts > 0),
            };
            let of = (CommandKey(self.command_key), &name, &self.application_name);
            journal.add(of, state, Some(reason), self.now);
        }
        Ok(())
    }
}

/// Why a command has ended with its time to live.
pub(super) fn reason(was: State, is_tried: bool) -> &'static str {
    match was {
        State::Delivered => "its time to live ended; it was delivered and no result came",
        State::Created if !is_tried => "its time to live ended; it was never sent",
        _ => "its time to live ended; it was sent and not acknowledged",
    }
}

impl Ledger {
    /// Ends commands whose time is over, and those to be cancelled that nothing can deliver any more; at most about so many.
    /// Answers how many there were.
    pub(crate) async fn end(&self, commands_max: u32) -> sqlx::Result<u64> {
        let mut transaction = self.shared.pool.begin().await?;
        let rows: Vec<EndedRow> =
            sqlx::query_as(END).bind(i64::from(commands_max)).fetch_all(&mut *transaction).await?;
        let mut journal = Journal::default();
        for row in &rows {
            row.write_down(&mut journal)?;
        }
        if !rows.is_empty() {
            self.shared.commit(transaction, journal).await?;
        }
        Ok(u64::try_from(rows.len()).unwrap_or(u64::MAX))
    }

    /// Deletes what was kept long enough, at most so much of each; answers how much.
    pub(crate) async fn purge(&self, rows_max: u32) -> sqlx::Result<u64> {
        let (config, limit) = (&self.shared.config, i64::from(rows_max));
        let mut connection = self.shared.pool.acquire().await?;
        let connection: &mut PgConnection = &mut connection;
        let commands_kept = signed(config.commands_kept_ms);
        let mut purged = 0;
        for (sql, kept) in [
            (PURGE_COMMANDS, commands_kept),
            (PURGE_BATCHES, commands_kept),
            (PURGE_RESPONSES, signed(config.responses_kept_ms)),
        ] {
            purged +=
                sqlx::query(sql).bind(limit).bind(kept).execute(&mut *connection).await?.rows_affected();
        }
        let connectivity: i64 = sqlx::query_scalar(PURGE_CONNECTIVITY)
            .bind(limit)
            .bind(signed(config.connectivity_kept_ms))
            .fetch_one(connection)
            .await?;
        Ok(purged + u64::try_from(connectivity).unwrap_or_default())
    }
}
