//! Reading commands.

use chrono::{DateTime, Utc};
use futures::TryStreamExt as _;
use futures::stream::BoxStream;
use ids::{ApplicationName, CommandType, EndpointId, TenantId};
use serde_json::Value;
use sqlx::types::Json;

use super::{History, Ledger};
use crate::domain::{BatchKey, Command, CommandName, Lane, Payload, State, Transition};
use crate::error::Error;

/// Payloads and results in a list, in bytes.
pub(crate) const LIST_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What a command takes in a list beside them.
const COMMAND_BYTES: usize = 512;
/// Commands of a history are counted up to here.
const COUNTED_MAX: i64 = 1_001_000;

/// All of a command `c`, with its transitions.
macro_rules! select {
    ($from:literal) => {
        concat!(
            "SELECT c.tenant_id, c.application_name, c.endpoint_id, c.command_type, c.command_id, c.state,
                c.payload, c.payload_is_text, c.created_at, c.updated_at, c.expires_at, c.attempts, c.status_code,
                c.reason_phrase, c.result, c.result_is_text, c.late_result, t.states, t.reasons, t.moments
            ",
            $from,
            " LEFT JOIN LATERAL (
                SELECT array_agg(s.state ORDER BY s.at, s.transition_key) AS states,
                    array_agg(s.reason ORDER BY s.at, s.transition_key) AS reasons,
                    array_agg(s.at ORDER BY s.at, s.transition_key) AS moments
                FROM transitions s WHERE s.command_key = c.command_key
            ) t ON true"
        )
    };
}

const GET: &str = concat!(
    select!("FROM commands c"),
    " WHERE c.tenant_id = $1 AND c.endpoint_id = $2 AND c.command_type = $3 AND c.command_id = $4"
);

const LAST: &str = concat!(
    select!(
        "FROM (SELECT * FROM commands WHERE tenant_id = $1 AND endpoint_id = $2 AND command_type = $3
            ORDER BY command_id DESC LIMIT 1) c"
    ),
    ""
);

/// Lanes have the type '' for all types; no command has.
const LAST_OF: &str = concat!(
    select!(
        "FROM lanes l CROSS JOIN LATERAL (
            SELECT * FROM commands k
            WHERE k.tenant_id = l.tenant_id AND k.endpoint_id = l.endpoint_id AND k.command_type = l.command_type
            ORDER BY k.command_id DESC LIMIT 1) c"
    ),
    " WHERE l.tenant_id = $1 AND l.endpoint_id = ANY($2) AND (cardinality($3::text[]) = 0 OR l.command_type = ANY($3))
    ORDER BY c.endpoint_id, c.command_type"
);

const OF_ENDPOINTS: &str = concat!(
    select!(
        "FROM unnest($2::text[]) AS e (endpoint_id) CROSS JOIN LATERAL (
            SELECT * FROM commands k
            WHERE k.tenant_id = $1 AND k.endpoint_id = e.endpoint_id
                AND (cardinality($3::text[]) = 0 OR k.command_type = ANY($3))
            ORDER BY k.command_key DESC LIMIT $4) c"
    ),
    " ORDER BY c.command_key DESC"
);

/// Which commands belong to a history.
macro_rules! of_history {
    () => {
        "FROM commands
        WHERE tenant_id = $1 AND application_name = $2
            AND (cardinality($3::text[]) = 0 OR endpoint_id = ANY($3))
            AND (cardinality($4::text[]) = 0 OR command_type = ANY($4))
            AND (cardinality($5::text[]) = 0 OR state = ANY($5))
            AND created_at >= coalesce($6, '-infinity') AND created_at < coalesce($7, 'infinity')"
    };
}

const HISTORY_COUNT: &str = concat!("SELECT count(*) FROM (SELECT ", of_history!(), " LIMIT $8) AS counted");

macro_rules! history {
    ($order:literal) => {
        concat!(
            "WITH page AS (SELECT * ",
            of_history!(),
            " ORDER BY created_at ",
            $order,
            ", command_key ",
            $order,
            " OFFSET $8 LIMIT $9) ",
            select!("FROM page c"),
            " ORDER BY c.created_at ",
            $order,
            ", c.command_key ",
            $order
        )
    };
}

const HISTORY_ASCENDING: &str = history!("ASC");
const HISTORY_DESCENDING: &str = history!("DESC");

const OF_BATCH: &str = concat!(
    "WITH page AS (SELECT * FROM commands WHERE batch_key = $1 ORDER BY endpoint_id, command_key OFFSET $2 LIMIT $3) ",
    select!("FROM page c"),
    " ORDER BY c.endpoint_id, c.command_key"
);

#[derive(sqlx::FromRow)]
struct CommandRow {
    tenant_id: String,
    #[sqlx(try_from = "String")]
    application_name: ApplicationName,
    endpoint_id: String,
    command_type: String,
    command_id: i32,
    state: String,
    payload: Option<Vec<u8>>,
    payload_is_text: bool,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
    attempts: i32,
    status_code: Option<i32>,
    reason_phrase: Option<String>,
    result: Option<Vec<u8>>,
    result_is_text: bool,
    late_result: Option<Json<Value>>,
    states: Option<Vec<String>>,
    reasons: Option<Vec<Option<String>>>,
    moments: Option<Vec<DateTime<Utc>>>,
}

/// A lane out of the database.
pub(super) fn lane(tenant: &str, endpoint: &str, command_type: &str) -> sqlx::Result<Lane> {
    let decode = |error: ids::InvalidId| sqlx::Error::Decode(Box::new(error));
    Ok(Lane {
        tenant: TenantId::parse(tenant).map_err(decode)?,
        endpoint_id: EndpointId::parse(endpoint).map_err(decode)?,
        command_type: CommandType::parse(command_type).map_err(decode)?,
    })
}

fn state(text: &str) -> sqlx::Result<State> {
    State::parse(text).ok_or_else(|| sqlx::Error::Decode(format!("{text:?} is no state of a command").into()))
}

impl CommandRow {
    /// What comes from outside in it.
    fn bytes(&self) -> usize {
        let payloads = [&self.payload, &self.result].into_iter().flatten().map(Vec::len).sum::<usize>();
        COMMAND_BYTES
            + payloads
            + self.late_result.as_ref().map_or(0, |Json(result)| result.to_string().len())
    }

    fn command(self) -> sqlx::Result<Command> {
        let lane = lane(&self.tenant_id, &self.endpoint_id, &self.command_type)?;
        let (states, reasons, moments) = (self.states, self.reasons, self.moments);
        let columns = states.unwrap_or_default().into_iter().zip(reasons.unwrap_or_default());
        let transitions = columns
            .zip(moments.unwrap_or_default())
            .map(|((text, reason), at)| Ok(Transition { state: state(&text)?, reason, at }));
        Ok(Command {
            name: CommandName { lane, command_id: self.command_id },
            application: self.application_name,
            state: state(&self.state)?,
            payload: self.payload.map(|payload| Payload::stored(payload, self.payload_is_text)),
            created_at: self.created_at,
            updated_at: self.updated_at,
            expires_at: self.expires_at,
            attempts: self.attempts,
            status_code: self.status_code,
            reason_phrase: self.reason_phrase,
            result: self.result.map(|result| Payload::stored(result, self.result_is_text)),
            late_result: self.late_result.map(|Json(result)| result),
            transitions: transitions.collect::<sqlx::Result<_>>()?,
        })
    }
}

/// Reads rows one after the other, so that never more than the limit is in memory.
async fn commands(mut rows: BoxStream<'_, sqlx::Result<CommandRow>>) -> Result<Vec<Command>, Error> {
    let (mut commands, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.try_next().await? {
        bytes += row.bytes();
        if bytes > LIST_BYTES_MAX {
            return Err(Error::Refused(format!(
                "the commands have more than {LIST_BYTES_MAX} bytes together; ask for fewer at once"
            )));
        }
        commands.push(row.command()?);
    }
    Ok(commands)
}

fn texts<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    names.collect()
}

impl Ledger {
    pub(crate) async fn get(&self, name: &CommandName) -> sqlx::Result<Option<Command>> {
        let row: Option<CommandRow> = sqlx::query_as(GET)
            .bind(name.lane.tenant.as_str())
            .bind(name.lane.endpoint_id.as_str())
            .bind(name.lane.command_type.as_str())
            .bind(name.command_id)
            .fetch_optional(&self.shared.pool)
            .await?;
        row.map(CommandRow::command).transpose()
    }

    /// The latest command of a lane.
    pub(crate) async fn last(&self, lane: &Lane) -> sqlx::Result<Option<Command>> {
        let row: Option<CommandRow> = sqlx::query_as(LAST)
            .bind(lane.tenant.as_str())
            .bind(lane.endpoint_id.as_str())
            .bind(lane.command_type.as_str())
            .fetch_optional(&self.shared.pool)
            .await?;
        row.map(CommandRow::command).transpose()
    }

    /// The latest command of each of these types (all when empty) of each of these endpoints.
    pub(crate) async fn last_of(
        &self,
        tenant: &TenantId,
        endpoints: &[EndpointId],
        command_types: &[CommandType],
    ) -> Result<Vec<Command>, Error> {
        let rows = sqlx::query_as(LAST_OF)
            .bind(tenant.as_str())
            .bind(texts(endpoints.iter().map(EndpointId::as_str)))
            .bind(texts(command_types.iter().map(CommandType::as_str)))
            .fetch(&self.shared.pool);
        commands(rows).await
    }

    /// Commands of these endpoints and types (all when empty), newest first, at most so many of each endpoint.
    pub(crate) async fn of_endpoints(
        &self,
        tenant: &TenantId,
        endpoints: &[EndpointId],
        command_types: &[CommandType],
        limit_each: i64,
    ) -> Result<Vec<Command>, Error> {
        let rows = sqlx::query_as(OF_ENDPOINTS)
            .bind(tenant.as_str())
            .bind(texts(endpoints.iter().map(EndpointId::as_str)))
            .bind(texts(command_types.iter().map(CommandType::as_str)))
            .bind(limit_each)
            .fetch(&self.shared.pool);
        commands(rows).await
    }

    /// Commands of a batch by endpoint id, and how many there are in all.
    pub(crate) async fn of_batch(
        &self,
        batch: BatchKey,
        offset: i64,
        limit: i64,
    ) -> Result<(i64, Vec<Command>), Error> {
        let count = sqlx::query_scalar("SELECT count(*) FROM commands WHERE batch_key = $1");
        let total: i64 = count.bind(batch.0).fetch_one(&self.shared.pool).await?;
        let page = sqlx::query_as(OF_BATCH).bind(batch.0).bind(offset).bind(limit);
        Ok((total, commands(page.fetch(&self.shared.pool)).await?))
    }

    /// A page of the history of an application, and how many there are in all.
    pub(crate) async fn history(&self, history: &History) -> Result<(i64, Vec<Command>), Error> {
        let endpoints = texts(history.endpoints.iter().map(EndpointId::as_str));
        let command_types = texts(history.command_types.iter().map(CommandType::as_str));
        let states = State::ALL.into_iter().filter(|state| history.statuses.contains(&state.status()));
        let states = texts(states.map(State::as_str));
        // Planned for what is asked for each time: the plan for all there may be asked for reads the whole application.
        let total: i64 = sqlx::query_scalar(HISTORY_COUNT)
            .persistent(false)
            .bind(history.tenant.as_str())
            .bind(history.application.as_str())
            .bind(&endpoints)
            .bind(&command_types)
            .bind(&states)
            .bind(history.from)
            .bind(history.to)
            .bind(COUNTED_MAX)
            .fetch_one(&self.shared.pool)
            .await?;
        let rows = sqlx::query_as(if history.ascending { HISTORY_ASCENDING } else { HISTORY_DESCENDING })
            .persistent(false)
            .bind(history.tenant.as_str())
            .bind(history.application.as_str())
            .bind(&endpoints)
            .bind(&command_types)
            .bind(&states)
            .bind(history.from)
            .bind(history.to)
            .bind(history.offset)
            .bind(history.limit)
            .fetch(&self.shared.pool);
        Ok((total, commands(rows).await?))
    }
}
