//! What becomes of commands whose push has ended.

use chrono::{DateTime, Utc};
use ids::ApplicationName;
use sqlx::PgConnection;

use super::journal::Journal;
use super::lanes::Lanes;
use super::{Claim, Pushed, signed};
use crate::config::Config;
use crate::domain::{CommandKey, CommandName, State};

/// Why a command without time to live has failed whose device was away.
const NOT_CONNECTED: &str = "the endpoint was not connected at the one attempt";

/// An attempt is over when its push ended and no other is under way; then a cancellation takes effect. After a push whose
/// end nobody knows it is over only when its time is.
const SETTLE: &str = "
WITH found AS (
    SELECT c.command_key, c.state AS was, g.outcome, g.until, g.began_at, g.is_current,
        CASE WHEN g.outcome = 'DELIVERED' AND c.state <> 'DELIVERED' THEN 0 ELSE c.pauses END AS pauses,
        g.outcome <> 'UNKNOWN' AND (c.attempt_until IS NULL OR c.attempt_until <= g.until) AS is_over
    FROM unnest($1::bigint[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::boolean[])
        AS g (command_key, outcome, until, began_at, is_current)
    JOIN commands c USING (command_key)
    ORDER BY c.command_key FOR UPDATE OF c),
settled AS (
    UPDATE commands c SET
        state = CASE
            WHEN is_over AND c.cancel_reason IS NOT NULL THEN 'CANCELLED'
            WHEN f.outcome = 'DELIVERED' THEN 'DELIVERED'
            WHEN f.outcome = 'OFFLINE' AND is_over AND c.is_once THEN 'UNDELIVERED'
            WHEN f.outcome = 'UNKNOWN' AND c.state = 'CREATED' THEN 'SENT'
            ELSE c.state END,
        attempts = c.attempts - CASE WHEN f.outcome = 'UNTRIED' THEN 1 ELSE 0 END,
        attempt_until = CASE WHEN NOT is_over THEN c.attempt_until END,
        next_attempt_at = CASE
            WHEN NOT f.is_current THEN c.next_attempt_at
            WHEN f.outcome = 'UNTRIED' THEN statement_timestamp()
            ELSE greatest(
                CASE WHEN NOT is_over THEN c.attempt_until END,
                statement_timestamp() + interval '1 millisecond' * (0.8 + 0.4 * random()) * least(
                    CASE WHEN f.outcome = 'DELIVERED' THEN $6 ELSE $7 END * power(2, least(f.pauses, 30)), $8))
            END,
        pauses = CASE WHEN f.is_current AND f.outcome <> 'UNTRIED' THEN f.pauses + 1 ELSE c.pauses END,
        unacknowledged = CASE f.outcome WHEN 'UNKNOWN' THEN c.unacknowledged + 1 WHEN 'DELIVERED' THEN 0
            ELSE c.unacknowledged END,
        delivered_at = CASE WHEN f.outcome = 'DELIVERED' THEN coalesce(c.delivered_at, statement_timestamp()) ELSE c.delivered_at END,
        expires_at = CASE
            WHEN c.is_once AND f.outcome = 'DELIVERED' THEN statement_timestamp() + $9 * interval '1 millisecond'
            WHEN c.is_once AND f.outcome = 'UNKNOWN' THEN greatest(c.expires_at, c.attempt_until)
            ELSE c.expires_at END,
        updated_at = CASE
            WHEN is_over AND c.cancel_reason IS NOT NULL
                OR f.outcome = 'DELIVERED' AND c.state <> 'DELIVERED'
                OR f.outcome = 'OFFLINE' AND is_over AND c.is_once THEN statement_timestamp()
            WHEN f.outcome = 'UNKNOWN' AND c.state = 'CREATED' THEN f.began_at
            ELSE c.updated_at END
    FROM found f
    WHERE c.command_key = f.command_key AND (c.state IN ('CREATED', 'SENT', 'DELIVERED')) IS TRUE
    RETURNING c.command_key, f.was, c.state, f.outcome, f.began_at, c.cancel_reason)
SELECT *, statement_timestamp() AS now FROM settled";

/// A push that has ended.
#[derive(Debug)]
pub(super) struct Settlement {
    pub(super) claim: Claim,
    /// None: it was never begun.
    pub(super) pushed: Option<Pushed>,
}

impl Settlement {
    fn outcome(&self) -> &'static str {
        match self.pushed {
            Some(Pushed::Delivered) => "DELIVERED",
            Some(Pushed::Offline) => "OFFLINE",
            Some(Pushed::Unknown) => "UNKNOWN",
            None => "UNTRIED",
        }
    }
}

#[derive(sqlx::FromRow)]
struct SettledRow {
    command_key: i64,
    was: String,
    state: String,
    outcome: String,
    began_at: DateTime<Utc>,
    cancel_reason: Option<String>,
    now: DateTime<Utc>,
}

/// Writes down how pushes have ended, of each lane one at most, and wants their lanes claimed anew.
pub(super) async fn settle(
    connection: &mut PgConnection,
    config: &Config,
    lanes: &mut Lanes,
    settlements: &[&Settlement],
    journal: &mut Journal,
) -> sqlx::Result<()> {
    let mut keys = Vec::new();
    let mut outcomes = Vec::new();
    let (mut until, mut began) = (Vec::new(), Vec::new());
    let mut current = Vec::new();
    for settlement in settlements {
        let claim = &settlement.claim;
        let held = lanes.get_mut(&claim.lane).filter(|held| held.lease == claim.lease);
        for due in &claim.commands {
            keys.push(due.key.0);
            outcomes.push(settlement.outcome());
            until.push(claim.until);
            began.push(claim.began_at);
            current.push(held.is_some());
        }
        if let Some(held) = held {
            held.release();
            held.is_wanted = settlement.pushed.is_some();
            if settlement.pushed.is_none() {
                held.look_at(claim.began_at);
            }
        }
    }
    let rows: Vec<SettledRow> = sqlx::query_as(SETTLE)
        .bind(&keys)
        .bind(outcomes)
        .bind(until)
        .bind(began)
        .bind(current)
        .bind(signed(config.result_pause_ms))
        .bind(signed(config.retry_pause_ms))
        .bind(signed(config.retry_pause_max_ms))
        .bind(signed(config.once_result_timeout_ms))
        .fetch_all(connection)
        .await?;
    for row in rows {
        if let Some((name, application)) = named(settlements, row.command_key) {
            write_down(&row, (CommandKey(row.command_key), &name, application), journal);
        }
    }
    Ok(())
}

/// The name of a command of the settlements.
fn named<'a>(settlements: &[&'a Settlement], key: i64) -> Option<(CommandName, &'a ApplicationName)> {
    settlements.iter().find_map(|settlement| {
        let claim = &settlement.claim;
        let due = claim.commands.iter().find(|due| due.key.0 == key)?;
        let name = CommandName { lane: claim.lane.clone(), command_id: due.command_id };
        Some((name, &claim.application))
    })
}

/// What a row went through: with a later state the earlier that are known to have happened.
fn write_down(row: &SettledRow, of: (CommandKey, &CommandName, &ApplicationName), journal: &mut Journal) {
    let (Some(was), Some(state)) = (State::parse(&row.was), State::parse(&row.state)) else { return };
    if was == State::Created && matches!(&*row.outcome, "DELIVERED" | "UNKNOWN") {
        journal.add(of, State::Sent, None, row.began_at);
    }
    if was < State::Delivered && row.outcome == "DELIVERED" {
        journal.add(of, State::Delivered, None, row.now);
    }
    match state {
        State::Cancelled => journal.add(of, state, row.cancel_reason.as_deref(), row.now),
        State::Undelivered => journal.add(of, state, Some(NOT_CONNECTED), row.now),
        _ => {}
    }
}
