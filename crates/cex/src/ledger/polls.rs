//! Handing out commands to devices that ask.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use ids::{ApplicationName, CommandType, EndpointId, TenantId};

use super::claims::MARGIN;
use super::journal::Journal;
use super::lanes::{Held, Lanes};
use super::{HandedOut, Ledger, ms, signed};
use crate::domain::{CommandKey, CommandName, Lane, Payload, State};

/// The lanes with something to hand out, unlocked: most polls find none, and write nothing.
const WAITING: &str = "
SELECT DISTINCT c.command_type FROM commands c
WHERE c.tenant_id = $1 AND c.endpoint_id = $2 AND ($3::text IS NULL OR c.command_type = $3)
    AND c.state IN ('CREATED', 'SENT', 'DELIVERED') AND c.cancel_reason IS NULL AND (c.expires_at > statement_timestamp()) IS TRUE
    AND NOT (c.is_once AND c.attempts > 0)";

/// Oldest first as much as there is room for. The answer counts as an attempt whose end nobody tells; a millisecond more than
/// any other that is under way, so that the end of that is not taken for its end. A push does not double it at once.
const HAND_OUT: &str = "
WITH due AS (
    SELECT c.command_key, c.state AS was,
        sum(coalesce(octet_length(c.payload), 0)::bigint) OVER (ORDER BY c.command_key) AS bytes,
        row_number() OVER (ORDER BY c.command_key) AS number
    FROM commands c
    WHERE c.tenant_id = $1 AND c.endpoint_id = $2 AND c.command_type = ANY($3)
        AND c.state IN ('CREATED', 'SENT', 'DELIVERED') AND c.cancel_reason IS NULL AND (c.expires_at > statement_timestamp()) IS TRUE
        AND NOT (c.is_once AND c.attempts > 0))
UPDATE commands c SET
    state = CASE WHEN c.state = 'CREATED' THEN 'SENT' ELSE c.state END,
    updated_at = CASE WHEN c.state = 'CREATED' THEN statement_timestamp() ELSE c.updated_at END,
    attempts = c.attempts + 1,
    attempted_at = statement_timestamp(),
    attempt_until = greatest(c.attempt_until + interval '1 millisecond', statement_timestamp() + $4 * interval '1 millisecond'),
    next_attempt_at = greatest(c.next_attempt_at, statement_timestamp() + $4 * interval '1 millisecond'),
    expires_at = CASE WHEN c.is_once THEN statement_timestamp() + $6 * interval '1 millisecond' ELSE c.expires_at END
FROM due d
WHERE c.command_key = d.command_key AND (d.bytes <= $5 OR d.number = 1)
    AND c.state IN ('CREATED', 'SENT', 'DELIVERED') AND c.cancel_reason IS NULL
RETURNING c.command_key, c.command_type, c.command_id, c.application_name, c.payload, c.payload_is_text, d.was,
    statement_timestamp() AS now";

#[derive(sqlx::FromRow)]
struct HandedOutRow {
    command_key: i64,
    #[sqlx(try_from = "String")]
    command_type: CommandType,
    command_id: i32,
    #[sqlx(try_from = "String")]
    application_name: ApplicationName,
    payload: Option<Vec<u8>>,
    payload_is_text: bool,
    was: String,
    now: DateTime<Utc>,
}

impl Ledger {
    /// Hands out the outstanding commands to a device that asks, oldest first, as many as fit into one answer, and notes that they may reach it until the window closes. A command without time to live is handed out once.
    pub(crate) async fn hand_out(
        &self,
        tenant: &TenantId,
        endpoint: &EndpointId,
        command_type: Option<&CommandType>,
        window: Duration,
    ) -> sqlx::Result<Vec<HandedOut>> {
        let shared = &self.shared;
        let waiting: Vec<String> = sqlx::query_scalar(WAITING)
            .bind(tenant.as_str())
            .bind(endpoint.as_str())
            .bind(command_type.map(CommandType::as_str))
            .fetch_all(&shared.pool)
            .await?;
        let lanes: BTreeSet<Lane> = waiting
            .iter()
            .filter_map(|command_type| CommandType::parse(command_type).ok())
            .map(|command_type| Lane { tenant: tenant.clone(), endpoint_id: endpoint.clone(), command_type })
            .collect();
        if lanes.is_empty() {
            return Ok(Vec::new());
        }
        let mut transaction = shared.pool.begin().await?;
        let locked = Lanes::lock(&mut transaction, &lanes.iter().collect(), |_| false).await?;
        let held: Vec<&str> =
            locked.iter().map(|(lane, _): (&Lane, &Held)| lane.command_type.as_str()).collect();
        let mut rows: Vec<HandedOutRow> = sqlx::query_as(HAND_OUT)
            .bind(tenant.as_str())
            .bind(endpoint.as_str())
            .bind(held)
            .bind(ms(window + MARGIN))
            .bind(i64::try_from(shared.config.poll_bytes_max).unwrap_or(i64::MAX))
            .bind(signed(shared.config.once_result_timeout_ms))
            .fetch_all(&mut *transaction)
            .await?;
        rows.sort_by_key(|row| row.command_key);
        let mut journal = Journal::default();
        let mut handed_out = Vec::with_capacity(rows.len());
        for row in rows {
            let (command_type, command_id) = (row.command_type, row.command_id);
            if State::parse(&row.was) == Some(State::Created) {
                let (tenant, endpoint_id) = (tenant.clone(), endpoint.clone());
                let lane = Lane { tenant, endpoint_id, command_type: command_type.clone() };
                let name = CommandName { lane, command_id };
                let of = (CommandKey(row.command_key), &name, &row.application_name);
                journal.add(of, State::Sent, None, row.now);
            }
            let payload = row.payload.map(|payload| Payload::stored(payload, row.payload_is_text));
            handed_out.push(HandedOut { command_type, command_id, payload });
        }
        shared.commit(transaction, journal).await?;
        Ok(handed_out)
    }
}
