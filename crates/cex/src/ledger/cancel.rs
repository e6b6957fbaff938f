//! Cancelling commands.

use chrono::{DateTime, Utc};
use ids::EndpointId;

use super::end::EndedRow;
use super::journal::Journal;
use super::{Cancelled, Ledger};
use crate::domain::{BatchKey, CommandName, State};

/// Why the commands of an endpoint were cancelled that is no more.
pub(crate) const ENDPOINT_DELETED: &str = "the endpoint was deleted";

/// What an attempt may still deliver is only marked: it is not sent again, and cancelled when the attempt is over.
const CANCEL: &str = "
WITH found AS (
    SELECT command_key, state AS was, attempt_until,
        state IN ('CREATED', 'SENT', 'DELIVERED') AS is_outstanding,
        attempt_until IS NULL OR attempt_until <= statement_timestamp() AS is_over
    FROM commands
    WHERE tenant_id = $1 AND endpoint_id = $2 AND command_type = $3 AND command_id = $4
    FOR UPDATE),
cancelled AS (
    UPDATE commands c SET cancel_reason = coalesce(c.cancel_reason, $5),
        state = CASE WHEN f.is_over THEN 'CANCELLED' ELSE c.state END,
        updated_at = CASE WHEN f.is_over THEN statement_timestamp() ELSE c.updated_at END
    FROM found f WHERE c.command_key = f.command_key AND f.is_outstanding
    RETURNING c.command_key, c.tenant_id, c.endpoint_id, c.command_type, c.command_id, c.application_name, f.was, c.state,
        c.attempts, c.cancel_reason, statement_timestamp() AS now)
SELECT * FROM cancelled";

const STATE: &str = "
SELECT state, attempt_until FROM commands
WHERE tenant_id = $1 AND endpoint_id = $2 AND command_type = $3 AND command_id = $4";

/// Moments of events are whole milliseconds. Nothing else takes the lanes of an endpoint while its commands are cancelled.
const LOCK_ENDPOINT: &str = "
SELECT tenant_id, command_type FROM lanes WHERE endpoint_id = $1 ORDER BY tenant_id, endpoint_id, command_type FOR UPDATE";

const CANCEL_ENDPOINT: &str = "
WITH found AS (
    SELECT c.command_key, c.state AS was, c.attempt_until IS NULL OR c.attempt_until <= statement_timestamp() AS is_over
    FROM lanes l JOIN commands c USING (tenant_id, endpoint_id, command_type)
    WHERE l.endpoint_id = $1 AND c.state IN ('CREATED', 'SENT', 'DELIVERED') AND c.created_at < $3 + interval '1 millisecond'
    ORDER BY c.command_key FOR UPDATE OF c)
UPDATE commands c SET cancel_reason = coalesce(c.cancel_reason, $2),
    state = CASE WHEN f.is_over THEN 'CANCELLED' ELSE c.state END,
    updated_at = CASE WHEN f.is_over THEN statement_timestamp() ELSE c.updated_at END
FROM found f WHERE c.command_key = f.command_key AND c.state IN ('CREATED', 'SENT', 'DELIVERED')
RETURNING c.command_key, c.tenant_id, c.endpoint_id, c.command_type, c.command_id, c.application_name, f.was, c.state,
    c.attempts, c.cancel_reason, statement_timestamp() AS now";

/// The endpoint may be registered anew: then its ids go on, so that no device sees one with two payloads. When it has got commands
/// since, the lanes are those of the new one.
const FORGET_LANES: &str = "
UPDATE lanes l SET is_pushed = true, topic = NULL, due_at = NULL, lease = lease + 1, leased_until = NULL
WHERE endpoint_id = $1 AND NOT EXISTS (SELECT FROM commands c
    WHERE c.tenant_id = l.tenant_id AND c.endpoint_id = l.endpoint_id AND c.created_at >= $2 + interval '1 millisecond')";

const FORGET_ENDPOINT: &str = "
DELETE FROM lanes l
WHERE endpoint_id = $1 AND command_type = '' AND NOT EXISTS (SELECT FROM commands c
    WHERE c.tenant_id = l.tenant_id AND c.endpoint_id = l.endpoint_id AND c.created_at >= $2 + interval '1 millisecond')";

/// One statement's worth of a batch. What others hold comes with the next.
const CANCEL_BATCH: &str = "
WITH found AS (
    SELECT c.command_key, c.state AS was, c.attempt_until IS NULL OR c.attempt_until <= statement_timestamp() AS is_over
    FROM commands c
    WHERE c.batch_key = $1 AND c.state = ANY($2) AND c.state IN ('CREATED', 'SENT', 'DELIVERED') AND c.cancel_reason IS NULL
    LIMIT $4 FOR UPDATE SKIP LOCKED)
UPDATE commands c SET cancel_reason = $3,
    state = CASE WHEN f.is_over THEN 'CANCELLED' ELSE c.state END,
    updated_at = CASE WHEN f.is_over THEN statement_timestamp() ELSE c.updated_at END
FROM found f WHERE c.command_key = f.command_key
RETURNING c.command_key, c.tenant_id, c.endpoint_id, c.command_type, c.command_id, c.application_name, f.was, c.state,
    c.attempts, c.cancel_reason, statement_timestamp() AS now";

impl Ledger {
    /// Cancels commands of a batch that are in one of these states, at most so many; answers how many there were, those
    /// among them that are only marked because an attempt may still deliver them.
    pub(crate) async fn cancel_of_batch(
        &self,
        batch: BatchKey,
        states: &[State],
        reason: &str,
        commands_max: u32,
    ) -> sqlx::Result<u64> {
        let mut transaction = self.shared.pool.begin().await?;
        let rows: Vec<EndedRow> = sqlx::query_as(CANCEL_BATCH)
            .bind(batch.0)
            .bind(states.iter().map(|state| state.as_str()).collect::<Vec<_>>())
            .bind(reason)
            .bind(i64::from(commands_max))
            .fetch_all(&mut *transaction)
            .await?;
        let mut journal = Journal::default();
        for row in &rows {
            row.write_down(&mut journal)?;
        }
        self.shared.commit(transaction, journal).await?;
        Ok(u64::try_from(rows.len()).unwrap_or(u64::MAX))
    }

    /// Cancels a command.
    pub(crate) async fn cancel(&self, name: &CommandName, reason: &str) -> sqlx::Result<Cancelled> {
        let mut transaction = self.shared.pool.begin().await?;
        let row: Option<EndedRow> = sqlx::query_as(CANCEL)
            .bind(name.lane.tenant.as_str())
            .bind(name.lane.endpoint_id.as_str())
            .bind(name.lane.command_type.as_str())
            .bind(name.command_id)
            .bind(reason)
            .fetch_optional(&mut *transaction)
            .await?;
        let row_state: Option<(String, Option<DateTime<Utc>>)> = sqlx::query_as(STATE)
            .bind(name.lane.tenant.as_str())
            .bind(name.lane.endpoint_id.as_str())
            .bind(name.lane.command_type.as_str())
            .bind(name.command_id)
            .fetch_optional(&mut *transaction)
            .await?;
        let mut journal = Journal::default();
        if let Some(row) = row {
            row.write_down(&mut journal)?;
            self.shared.commit(transaction, journal).await?;
        }
        let Some((state, attempt_until)) = row_state else { return Ok(Cancelled::Unknown) };
        let state = State::parse(&state)
            .ok_or_else(|| sqlx::Error::Decode(format!("{state:?} is no state of a command").into()))?;
        Ok(match state {
            State::Cancelled => Cancelled::Confirmed,
            state if state.is_final() => Cancelled::Ended(state),
            _ => Cancelled::Awaited(attempt_until.unwrap_or_else(Utc::now)),
        })
    }

    /// Cancels what is outstanding of an endpoint that was deleted at a moment, and forgets how it wants its commands. What was
    /// invoked later belongs to one that was registered anew: the end of the old one may be told again and again.
    pub(crate) async fn forget(&self, endpoint: &EndpointId, deleted_at: DateTime<Utc>) -> sqlx::Result<()> {
        let mut transaction = self.shared.pool.begin().await?;
        sqlx::query(LOCK_ENDPOINT).bind(endpoint.as_str()).execute(&mut *transaction).await?;
        let rows: Vec<EndedRow> = sqlx::query_as(CANCEL_ENDPOINT)
            .bind(endpoint.as_str())
            .bind(ENDPOINT_DELETED)
            .bind(deleted_at)
            .fetch_all(&mut *transaction)
            .await?;
        for sql in [FORGET_LANES, FORGET_ENDPOINT] {
            sqlx::query(sql).bind(endpoint.as_str()).bind(deleted_at).execute(&mut *transaction).await?;
        }
        let mut journal = Journal::default();
        for row in &rows {
            row.write_down(&mut journal)?;
        }
        self.shared.commit(transaction, journal).await
    }
}
