//! Results that devices report.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use ids::ApplicationName;
use serde_json::json;
use sqlx::PgConnection;

use super::Ledger;
use super::journal::Journal;
use super::lanes::{Lanes, columns};
use crate::domain::{CommandKey, CommandName, Lane, NewResult, Payload, ResultTaken, State};

/// Where the time to live is over, the command ends with it, unless an attempt may still deliver it: then soon. With the
/// result goes, in the same transaction, what is to be told on a topic where it is awaited.
const TAKE: &str = "
WITH found AS (
    SELECT g.ordinal, c.command_key, c.state AS was, g.status_code, g.reason_phrase, g.result, g.is_text, g.late,
        c.state IN ('CREATED', 'SENT', 'DELIVERED') AND c.expires_at >= statement_timestamp() AS is_taken,
        c.state IN ('CREATED', 'SENT', 'DELIVERED') AND c.expires_at < statement_timestamp()
            AND (c.attempt_until IS NULL OR c.attempt_until <= statement_timestamp()) AS is_over
    FROM unnest($1::integer[], $2::text[], $3::text[], $4::text[], $5::integer[], $6::integer[], $7::text[], $8::bytea[],
            $9::boolean[], $10::text[])
        AS g (ordinal, tenant_id, endpoint_id, command_type, command_id, status_code, reason_phrase, result, is_text, late)
    JOIN commands c USING (tenant_id, endpoint_id, command_type, command_id)
    ORDER BY c.command_key FOR UPDATE OF c),
changed AS (
    UPDATE commands c SET
        state = CASE WHEN f.is_taken THEN 'EXECUTED'
            WHEN f.is_over AND c.is_once AND c.state <> 'DELIVERED' THEN 'UNDELIVERED'
            WHEN f.is_over THEN 'EXPIRED' ELSE c.state END,
        updated_at = CASE WHEN f.is_taken OR f.is_over THEN statement_timestamp() ELSE c.updated_at END,
        status_code = CASE WHEN f.is_taken THEN f.status_code ELSE c.status_code END,
        reason_phrase = CASE WHEN f.is_taken THEN f.reason_phrase ELSE c.reason_phrase END,
        result = CASE WHEN f.is_taken THEN f.result ELSE c.result END,
        result_is_text = CASE WHEN f.is_taken THEN f.is_text ELSE c.result_is_text END,
        late_result = CASE WHEN f.is_taken THEN c.late_result ELSE coalesce(c.late_result, f.late::json) END
    FROM found f
    WHERE c.command_key = f.command_key AND c.state <> 'EXECUTED'
    RETURNING c.command_key, c.state, c.is_once, c.application_name, c.tenant_id, c.response_topic, c.batch_key, c.result),
told AS (
    INSERT INTO responses (tenant_id, topic, payload, command_key)
    SELECT c.tenant_id, coalesce(c.response_topic, b.response_topic), coalesce(c.result, ''), c.command_key
    FROM changed c LEFT JOIN batches b USING (batch_key)
    WHERE c.state = 'EXECUTED' AND coalesce(c.response_topic, b.response_topic) IS NOT NULL)
SELECT f.ordinal, f.command_key, f.was, coalesce(c.state, f.was) AS state, coalesce(c.is_once, false) AS is_once,
    c.application_name, statement_timestamp() AS now
FROM found f LEFT JOIN changed c USING (command_key)";

/// A result, and whose it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reported<'a> {
    pub(super) lane: &'a Lane,
    pub(super) result: &'a NewResult,
}

#[derive(sqlx::FromRow)]
struct TakenRow {
    ordinal: i32,
    command_key: i64,
    was: String,
    state: String,
    is_once: bool,
    application_name: Option<String>,
    now: DateTime<Utc>,
}

impl Ledger {
    /// Takes results of a device; answers for each in the order given.
    pub(crate) async fn results(
        &self,
        lane: &Lane,
        results: Vec<NewResult>,
    ) -> sqlx::Result<Vec<ResultTaken>> {
        if results.is_empty() {
            return Ok(Vec::new());
        }
        self.writers.results(lane.clone(), results).await
    }

    /// Of which command a result is, when the device cannot say it: of the oldest that was delivered and has none; failing
    /// that, of the oldest that may have been; failing that, it is late, and of the last that may have reached the device.
    pub(crate) async fn oldest_unanswered(&self, lane: &Lane) -> sqlx::Result<Option<i32>> {
        sqlx::query_scalar(
            "SELECT coalesce(
                 (SELECT command_id FROM commands
                  WHERE tenant_id = $1 AND endpoint_id = $2 AND command_type = $3
                      AND state IN ('CREATED', 'SENT', 'DELIVERED') AND (expires_at >= statement_timestamp()) IS TRUE
                      AND (state <> 'CREATED' OR attempts > 0)
                  ORDER BY state <> 'DELIVERED', command_id LIMIT 1),
                 (SELECT command_id FROM (
                      SELECT command_id, state, late_result FROM commands
                      WHERE tenant_id = $1 AND endpoint_id = $2 AND command_type = $3 AND attempts > 0
                      ORDER BY command_id DESC LIMIT 1) AS last
                  WHERE state <> 'EXECUTED' AND late_result IS NULL))",
        )
        .bind(lane.tenant.as_str())
        .bind(lane.endpoint_id.as_str())
        .bind(lane.command_type.as_str())
        .fetch_one(&self.shared.pool)
        .await
    }
}

/// Takes results of commands whose lanes are locked; answers for each in the order given.
pub(super) async fn take(
    connection: &mut PgConnection,
    lanes: &mut Lanes,
    reported: &[Reported<'_>],
    journal: &mut Journal,
) -> sqlx::Result<Vec<ResultTaken>> {
    // Of several results of one command the first counts; the statement sees one only.
    let mut firsts: HashMap<(&Lane, i32), usize> = HashMap::with_capacity(reported.len());
    for (index, Reported { lane, result }) in reported.iter().enumerate() {
        firsts.entry((lane, result.command_id)).or_insert(index);
    }
    let mut distinct: Vec<usize> = firsts.values().copied().collect();
    distinct.sort_unstable();
    let rows = write(connection, distinct.iter().filter_map(|&index| reported.get(index))).await?;
    let mut taken = vec![ResultTaken::Unknown; reported.len()];
    for row in rows {
        let index = usize::try_from(row.ordinal).ok().and_then(|ordinal| distinct.get(ordinal).copied());
        let Some((index, Reported { lane, result })) =
            index.and_then(|index| Some((index, reported.get(index)?)))
        else {
            continue;
        };
        let name = CommandName { lane: (*lane).clone(), command_id: result.command_id };
        if let Some(slot) = taken.get_mut(index) {
            *slot = conclude(&row, &name, journal);
        }
        // Who listens at a topic outside of 1/KP gets the next command now.
        if let Some(held) = lanes.get_mut(lane).filter(|held| held.topic.is_some()) {
            held.look_at(row.now);
        }
    }
    for (index, Reported { lane, result }) in reported.iter().enumerate() {
        let first = firsts.get(&(*lane, result.command_id)).copied().unwrap_or(index);
        if first != index {
            let again = match taken.get(first) {
                Some(ResultTaken::Taken) | None => ResultTaken::Repeated,
                Some(other) => *other,
            };
            if let Some(slot) = taken.get_mut(index) {
                *slot = again;
            }
        }
    }
    Ok(taken)
}

async fn write<'a>(
    connection: &mut PgConnection,
    reported: impl Iterator<Item = &'a Reported<'a>> + Clone,
) -> sqlx::Result<Vec<TakenRow>> {
    let (tenants, endpoints, types) = columns(reported.clone().map(|reported| reported.lane));
    let results = || reported.clone().map(|reported| reported.result);
    // PostgreSQL holds no NUL in a text.
    let phrases: Vec<Option<String>> = results()
        .map(|result| result.reason_phrase.as_ref().map(|phrase| phrase.replace('\0', "")))
        .collect();
    sqlx::query_as(TAKE)
        .bind((0_i32..).take(tenants.len()).collect::<Vec<_>>())
        .bind(tenants)
        .bind(endpoints)
        .bind(types)
        .bind(results().map(|result| result.command_id).collect::<Vec<_>>())
        .bind(results().map(|result| result.status_code).collect::<Vec<_>>())
        .bind(phrases)
        .bind(
            results()
                .map(|result| result.payload.as_ref().map(|payload| &**payload.bytes()))
                .collect::<Vec<_>>(),
        )
        .bind(
            results().map(|result| result.payload.as_ref().is_some_and(Payload::is_text)).collect::<Vec<_>>(),
        )
        .bind(results().map(late).collect::<Vec<_>>())
        .fetch_all(connection)
        .await
}

/// A result as it is noted when it comes too late.
fn late(result: &NewResult) -> String {
    let payload = result.payload.as_ref().map(Payload::to_value);
    json!({
        "statusCode": result.status_code,
        "reasonPhrase": result.reason_phrase,
        "payload": payload,
        "receivedAt": Utc::now(),
    })
    .to_string()
}

fn conclude(row: &TakenRow, name: &CommandName, journal: &mut Journal) -> ResultTaken {
    let (Some(was), Some(state)) = (State::parse(&row.was), State::parse(&row.state)) else {
        return ResultTaken::Unknown;
    };
    if was == State::Executed {
        return ResultTaken::Repeated;
    }
    if state != was
        && let Some(application) = row.application_name.as_deref()
        && let Ok(application) = ApplicationName::parse(application)
    {
        let reason = (state != State::Executed).then(|| super::end::reason(was, true));
        journal.add((CommandKey(row.command_key), name, &application), state, reason, row.now);
    }
    match state {
        State::Executed => ResultTaken::Taken,
        state if state.is_final() => ResultTaken::Late(state),
        // Its time is over; it ends as soon as no attempt can deliver it any more.
        _ if row.is_once && was != State::Delivered => ResultTaken::Late(State::Undelivered),
        _ => ResultTaken::Late(State::Expired),
    }
}
