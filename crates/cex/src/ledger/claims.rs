//! Claiming lanes: the right to push, written before anything leaves.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use tokio::time::Instant;

use super::lanes::{Held, Lanes, columns};
use super::{Claim, Due, signed};
use crate::config::Config;
use crate::domain::{CommandKey, Lane, Payload};

/// How much longer than its time a push is believed to be able to deliver: clocks differ.
pub(super) const MARGIN: Duration = Duration::from_secs(2);

/// What is due in each lane, without payloads. A lane with nothing due has one row that says when something will be.
/// Who listens at a topic outside of 1/KP gets one command after the other, and none twice once it was acknowledged.
const CANDIDATES: &str = "
SELECT l.ordinal, d.command_key, d.expires_at, d.is_suspect, d.size, n.due_at, statement_timestamp() AS now
FROM unnest($1::integer[], $2::text[], $3::text[], $4::text[], $5::boolean[])
    AS l (ordinal, tenant_id, endpoint_id, command_type, has_topic)
LEFT JOIN LATERAL (
    SELECT max(c.delivered_at) + $6 * interval '1 millisecond' AS until FROM commands c
    WHERE l.has_topic AND c.tenant_id = l.tenant_id AND c.endpoint_id = l.endpoint_id
        AND c.command_type = l.command_type AND c.state IN ('CREATED', 'SENT', 'DELIVERED') AND c.state = 'DELIVERED'
) b ON true
LEFT JOIN LATERAL (
    SELECT c.command_key, c.command_id, c.expires_at, c.state = 'SENT' OR c.attempt_until IS NOT NULL AS is_suspect,
        coalesce(octet_length(c.payload), 0) AS size
    FROM commands c
    WHERE c.tenant_id = l.tenant_id AND c.endpoint_id = l.endpoint_id AND c.command_type = l.command_type
        AND c.state IN ('CREATED', 'SENT', 'DELIVERED') AND c.cancel_reason IS NULL
        AND (c.expires_at > statement_timestamp()) IS TRUE AND NOT (c.is_once AND c.attempts > 0)
        AND NOT (l.has_topic AND c.state = 'DELIVERED')
        AND greatest(c.next_attempt_at, b.until) <= statement_timestamp()
    ORDER BY c.command_id LIMIT $7
) d ON true
LEFT JOIN LATERAL (
    SELECT min(greatest(c.next_attempt_at, b.until)) AS due_at FROM commands c
    WHERE d.command_key IS NULL
        AND c.tenant_id = l.tenant_id AND c.endpoint_id = l.endpoint_id AND c.command_type = l.command_type
        AND c.state IN ('CREATED', 'SENT', 'DELIVERED') AND c.cancel_reason IS NULL
        AND (c.expires_at > statement_timestamp()) IS TRUE AND NOT (c.is_once AND c.attempts > 0)
        AND NOT (l.has_topic AND c.state = 'DELIVERED')
) n ON true
ORDER BY l.ordinal, d.command_id";

/// An attempt that begins while another may still deliver is not over when either ends, but when both must have: a
/// millisecond more than either, so that the end of neither is taken for it. (IS TRUE keeps the planner from
/// the indexes of all that is outstanding: it believes that there is little.)
const BEGIN: &str = "
WITH locked AS (
    SELECT c.command_key, g.until
    FROM unnest($1::bigint[], $2::timestamptz[]) AS g (command_key, until) JOIN commands c USING (command_key)
    WHERE (c.state IN ('CREATED', 'SENT', 'DELIVERED')) IS TRUE AND c.cancel_reason IS NULL
        AND (c.expires_at > statement_timestamp()) IS TRUE
    ORDER BY c.command_key FOR UPDATE OF c)
UPDATE commands c SET attempts = c.attempts + 1, attempted_at = statement_timestamp(),
    attempt_until = CASE WHEN c.attempt_until > statement_timestamp()
        THEN greatest(c.attempt_until, locked.until) + interval '1 millisecond' ELSE locked.until END,
    next_attempt_at = locked.until
FROM locked
WHERE c.command_key = locked.command_key
RETURNING c.command_key, c.command_id, c.payload, c.payload_is_text";

#[derive(sqlx::FromRow)]
struct CandidateRow {
    ordinal: i32,
    command_key: Option<i64>,
    expires_at: Option<DateTime<Utc>>,
    is_suspect: Option<bool>,
    size: Option<i32>,
    due_at: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
}

#[derive(sqlx::FromRow)]
struct BegunRow {
    command_key: i64,
    command_id: i32,
    payload: Option<Vec<u8>>,
    payload_is_text: bool,
}

/// A command that is due.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    key: i64,
    life: Duration,
    /// It was tried and not acknowledged; perhaps it is what kills the device.
    is_suspect: bool,
    size: usize,
}

/// Lanes that were claimed. To be handed out after the commit.
#[derive(Debug, Default)]
pub(super) struct Claims(BTreeMap<Lane, Claim>);

impl Claims {
    /// The claim of a lane, which is then the caller's to push.
    pub(super) fn take(&mut self, lane: &Lane) -> Option<Claim> {
        self.0.remove(lane)
    }

    pub(super) fn into_all(self) -> Vec<Claim> {
        self.0.into_values().collect()
    }
}

/// Claims the lanes that are wanted, as far as they are pushed to, nobody pushes, and something is due.
pub(super) async fn claim(
    connection: &mut PgConnection,
    config: &Config,
    lanes: &mut Lanes,
) -> sqlx::Result<Claims> {
    let mut claims = Claims::default();
    // Before the database looks at its clock: then a push is over here before it is there.
    let began = Instant::now();
    for (_, held) in lanes.iter_mut().filter(|(_, held)| held.is_wanted && !held.is_pushed) {
        held.is_changed |= held.due_at.take().is_some();
    }
    let mut wanted: Vec<(&Lane, &mut Held)> =
        lanes.iter_mut().filter(|(_, held)| held.is_wanted && held.is_pushed).collect();
    if wanted.is_empty() {
        return Ok(claims);
    }
    let chosen = choose_all(connection, config, &mut wanted).await?;
    if chosen.is_empty() {
        return Ok(claims);
    }
    let mut begun = begin(connection, &chosen).await?;
    for Chosen { index, keys, began_at, until, timeout } in chosen {
        let commands: Vec<Due> = keys.iter().filter_map(|key| begun.remove(key)).collect();
        let Some((lane, held)) = wanted.get_mut(index) else { continue };
        held.is_changed = true;
        if commands.is_empty() {
            // They were cancelled in this moment; others may be due.
            held.due_at = Some(began_at);
            continue;
        }
        held.lease += 1;
        held.leased_at = Some(began_at);
        held.leased_until = Some(until);
        held.due_at = Some(until);
        let claim = Claim {
            lane: (*lane).clone(),
            application: held.application_name.clone(),
            lease: held.lease,
            began_at,
            until,
            topic: held.topic.clone(),
            commands,
            deadline: began + timeout,
        };
        claims.0.insert((*lane).clone(), claim);
    }
    Ok(claims)
}

/// What is to be pushed in one lane.
struct Chosen {
    index: usize,
    keys: Vec<i64>,
    began_at: DateTime<Utc>,
    until: DateTime<Utc>,
    timeout: Duration,
}

/// Chooses what to push in each lane; notes at lanes with nothing due when something will be.
async fn choose_all(
    connection: &mut PgConnection,
    config: &Config,
    wanted: &mut [(&Lane, &mut Held)],
) -> sqlx::Result<Vec<Chosen>> {
    let (tenants, endpoints, types) = columns(wanted.iter().map(|(lane, _)| *lane));
    let rows: Vec<CandidateRow> = sqlx::query_as(CANDIDATES)
        .bind((0_i32..).take(wanted.len()).collect::<Vec<_>>())
        .bind(tenants)
        .bind(endpoints)
        .bind(types)
        .bind(wanted.iter().map(|(_, held)| held.topic.is_some()).collect::<Vec<_>>())
        .bind(signed(config.topic_answer_timeout_ms))
        .bind(i64::from(config.push_commands_max))
        .fetch_all(&mut *connection)
        .await?;
    let mut chosen = Vec::new();
    for rows in rows.chunk_by(|a, b| a.ordinal == b.ordinal) {
        let Some(first) = rows.first() else { continue };
        let index = usize::try_from(first.ordinal).unwrap_or(usize::MAX);
        let Some((_, held)) = wanted.get_mut(index) else { continue };
        if held.is_leased(first.now) {
            continue;
        }
        let candidates: Vec<Candidate> = rows.iter().filter_map(CandidateRow::candidate).collect();
        let candidates = choose(&candidates, held.topic.is_some(), config);
        let Some(timeout) = timeout(candidates, config) else {
            held.is_changed |= held.due_at != first.due_at;
            held.due_at = first.due_at;
            continue;
        };
        let keys = candidates.iter().map(|candidate| candidate.key).collect();
        let until = first.now + timeout + MARGIN;
        chosen.push(Chosen { index, keys, began_at: first.now, until, timeout });
    }
    Ok(chosen)
}

impl CandidateRow {
    fn candidate(&self) -> Option<Candidate> {
        Some(Candidate {
            key: self.command_key?,
            life: (self.expires_at? - self.now).to_std().unwrap_or_default(),
            is_suspect: self.is_suspect?,
            size: usize::try_from(self.size?).unwrap_or(usize::MAX),
        })
    }
}

/// What goes in one push: from the front as much as there is room for. What may do harm or lives too briefly to wait for
/// the others goes alone.
fn choose<'a>(candidates: &'a [Candidate], has_topic: bool, config: &Config) -> &'a [Candidate] {
    let is_alone = |candidate: &Candidate| {
        candidate.is_suspect || candidate.life < Duration::from_millis(config.push_timeout_ms)
    };
    let count = match candidates.first() {
        None => 0,
        Some(first) if has_topic || is_alone(first) => 1,
        Some(_) => {
            let mut bytes = 0_usize;
            let fits = |candidate: &&Candidate| {
                let is_first = bytes == 0;
                bytes = bytes.saturating_add(candidate.size.max(1));
                !is_alone(candidate) && (is_first || bytes <= config.push_bytes_max)
            };
            candidates.iter().take_while(fits).count()
        }
    };
    candidates.get(..count).unwrap_or_default()
}

/// How long the push may take; none when there is nothing to push.
fn timeout(candidates: &[Candidate], config: &Config) -> Option<Duration> {
    let life = candidates.iter().map(|candidate| candidate.life).min()?;
    Some(life.min(Duration::from_millis(config.push_timeout_ms)))
}

/// Writes down that the commands may be delivered from now on.
async fn begin(connection: &mut PgConnection, chosen: &[Chosen]) -> sqlx::Result<HashMap<i64, Due>> {
    let keys: Vec<i64> = chosen.iter().flat_map(|chosen| chosen.keys.iter().copied()).collect();
    let until: Vec<DateTime<Utc>> =
        chosen.iter().flat_map(|chosen| chosen.keys.iter().map(|_| chosen.until)).collect();
    let rows: Vec<BegunRow> = sqlx::query_as(BEGIN).bind(keys).bind(until).fetch_all(connection).await?;
    let due = |row: BegunRow| {
        let payload = row.payload.map(|payload| Payload::stored(payload, row.payload_is_text));
        (row.command_key, Due { key: CommandKey(row.command_key), command_id: row.command_id, payload })
    };
    Ok(rows.into_iter().map(due).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(key: i64, size: usize) -> Candidate {
        Candidate { key, life: Duration::from_secs(60), is_suspect: false, size }
    }

    fn keys(candidates: &[Candidate], has_topic: bool) -> Vec<i64> {
        let config = Config { push_bytes_max: 100, ..Config::default() };
        choose(candidates, has_topic, &config).iter().map(|candidate| candidate.key).collect()
    }

    #[test]
    fn a_push_takes_what_there_is_room_for_and_what_is_suspect_goes_alone() {
        let [a, b, large] = [candidate(1, 60), candidate(2, 40), candidate(3, 1_000)];
        assert_eq!(keys(&[a, b, large], false), [1, 2]);
        assert_eq!(keys(&[large, a], false), [3]);
        assert_eq!(keys(&[a, b], true), [1]);
        let suspect = Candidate { is_suspect: true, ..a };
        assert_eq!(keys(&[suspect, b], false), [1]);
        assert_eq!(keys(&[b, suspect], false), [2]);
        let brief = Candidate { life: Duration::from_millis(20), ..a };
        assert_eq!(keys(&[brief, b], false), [1]);
        assert_eq!(timeout(&[brief], &Config::default()), Some(Duration::from_millis(20)));
        assert_eq!(keys(&[], false), [0_i64; 0]);
        assert_eq!(timeout(&[], &Config::default()), None);
    }
}
