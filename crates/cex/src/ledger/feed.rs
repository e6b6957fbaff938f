//! What happens in an application, in an order that a reader can go on in.
//!
//! Rows of a table get their numbers before their commit, so a reader that remembers the last number misses what is committed
//! late. The feed's order is that of transactions, and it goes no further than the oldest that still runs, anywhere in
//! the server: a transaction that writes for long holds it up.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use ids::{ApplicationName, CommandType, EndpointId, TenantId};

use super::{Ledger, reads};
use crate::domain::{CommandName, Happening, State, Transition};

/// A place in the feed: all until there was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    transaction: u64,
    transition: i64,
    connectivity: i64,
}

/// A text is not a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a position is three numbers with - between them, as an event's id has it")]
pub(crate) struct InvalidPosition;

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}-{}", self.transaction, self.transition, self.connectivity)
    }
}

impl FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let parts: Vec<&str> = text.split('-').collect();
        match parts.as_slice() {
            [transaction, transition, connectivity] if parts.iter().all(|part| is_digits(part)) => Ok(Self {
                transaction: transaction.parse().map_err(|_| InvalidPosition)?,
                transition: transition.parse().map_err(|_| InvalidPosition)?,
                connectivity: connectivity.parse().map_err(|_| InvalidPosition)?,
            }),
            _ => Err(InvalidPosition),
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone)]
pub(crate) struct FeedItem {
    /// Where to go on after it.
    pub(crate) position: Position,
    pub(crate) event: FeedEvent,
}

/// What happened.
#[derive(Debug, Clone)]
pub(crate) enum FeedEvent {
    Command { happening: Happening, status_code: Option<i32> },
    Connectivity { endpoint_id: EndpointId, is_connected: bool, at: DateTime<Utc> },
}

/// An endpoint that connected or disconnected.
#[derive(Debug, Clone)]
pub(crate) struct ConnectivityChange {
    pub(crate) tenant: TenantId,
    pub(crate) application: ApplicationName,
    pub(crate) endpoint_id: EndpointId,
    pub(crate) is_connected: bool,
    pub(crate) at: DateTime<Utc>,
}

const CONNECTIVITY: &str = "
INSERT INTO connectivity (tenant_id, application_name, endpoint_id, is_connected, at)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::boolean[], $5::timestamptz[])";

/// The status code goes with the result only. Connectivity comes after the transitions of the same transaction.
const FEED: &str = "
WITH visible AS (SELECT pg_snapshot_xmin(pg_current_snapshot()) AS xmin),
commanded AS (
    SELECT t.xact_id, 0 AS kind, t.transition_key AS key, c.endpoint_id, c.command_type, c.command_id, t.state, t.reason, t.at,
        CASE WHEN t.state = 'EXECUTED' THEN c.status_code END AS status_code, false AS is_connected
    FROM transitions t JOIN commands c USING (command_key)
    WHERE t.tenant_id = $1 AND t.application_name = $2 AND (t.xact_id, t.transition_key) > ($3::text::xid8, $4)
        AND t.xact_id < (SELECT xmin FROM visible)
        AND (cardinality($6::text[]) = 0 OR c.command_type = ANY($6))
        AND (cardinality($7::text[]) = 0 OR c.endpoint_id = ANY($7))
    ORDER BY t.xact_id, t.transition_key LIMIT $8),
connected AS (
    SELECT n.xact_id, 1 AS kind, n.connectivity_key AS key, n.endpoint_id, '' AS command_type, 0 AS command_id, '' AS state,
        NULL::text AS reason, n.at, NULL::integer AS status_code, n.is_connected
    FROM connectivity n
    WHERE n.tenant_id = $1 AND n.application_name = $2 AND (n.xact_id, n.connectivity_key) > ($3::text::xid8, $5)
        AND n.xact_id < (SELECT xmin FROM visible)
        AND (cardinality($7::text[]) = 0 OR n.endpoint_id = ANY($7))
    ORDER BY n.xact_id, n.connectivity_key LIMIT $8)
SELECT xact_id::text AS xact_id, kind, key, endpoint_id, command_type, command_id, state, reason, at, status_code, is_connected
FROM (SELECT * FROM commanded UNION ALL SELECT * FROM connected) f
ORDER BY f.xact_id, f.kind, f.key LIMIT $8";

#[derive(sqlx::FromRow)]
struct ItemRow {
    xact_id: String,
    kind: i32,
    key: i64,
    endpoint_id: String,
    command_type: String,
    command_id: i32,
    state: String,
    reason: Option<String>,
    at: DateTime<Utc>,
    status_code: Option<i32>,
    is_connected: bool,
}

impl ItemRow {
    fn item(self, tenant: &TenantId, application: &ApplicationName) -> sqlx::Result<FeedItem> {
        let decode = |what: &str| sqlx::Error::Decode(format!("{what} of the feed cannot be read").into());
        let transaction = self.xact_id.parse().map_err(|_| decode("a transaction"))?;
        if self.kind == 1 {
            let position = Position { transaction, transition: i64::MAX, connectivity: self.key };
            let endpoint_id = EndpointId::parse(&self.endpoint_id).map_err(|_| decode("an endpoint"))?;
            let event = FeedEvent::Connectivity { endpoint_id, is_connected: self.is_connected, at: self.at };
            return Ok(FeedItem { position, event });
        }
        let position = Position { transaction, transition: self.key, connectivity: 0 };
        let lane = reads::lane(tenant.as_str(), &self.endpoint_id, &self.command_type)?;
        let state = State::parse(&self.state).ok_or_else(|| decode("a state"))?;
        let happening = Happening {
            name: CommandName { lane, command_id: self.command_id },
            application: application.clone(),
            transition: Transition { state, reason: self.reason, at: self.at },
        };
        Ok(FeedItem { position, event: FeedEvent::Command { happening, status_code: self.status_code } })
    }
}

impl Ledger {
    /// Writes down who connected and disconnected.
    pub(crate) async fn connectivity(&self, changes: Vec<ConnectivityChange>) -> sqlx::Result<()> {
        sqlx::query(CONNECTIVITY)
            .bind(changes.iter().map(|change| change.tenant.as_str()).collect::<Vec<_>>())
            .bind(changes.iter().map(|change| change.application.as_str()).collect::<Vec<_>>())
            .bind(changes.iter().map(|change| change.endpoint_id.as_str()).collect::<Vec<_>>())
            .bind(changes.iter().map(|change| change.is_connected).collect::<Vec<_>>())
            .bind(changes.iter().map(|change| change.at).collect::<Vec<_>>())
            .execute(&self.shared.pool)
            .await?;
        for change in &changes {
            self.shared.news.tell_feed(&change.tenant, &change.application);
        }
        Ok(())
    }

    /// What happened after a position, to commands of these types and to these endpoints (all when empty): at most so much.
    pub(crate) async fn feed(
        &self,
        tenant: &TenantId,
        application: &ApplicationName,
        after: &Position,
        command_types: &[CommandType],
        endpoints: &[EndpointId],
        limit: i64,
    ) -> sqlx::Result<Vec<FeedItem>> {
        let rows: Vec<ItemRow> = sqlx::query_as(FEED)
            .bind(tenant.as_str())
            .bind(application.as_str())
            .bind(after.transaction.to_string())
            .bind(after.transition)
            .bind(after.connectivity)
            .bind(command_types.iter().map(CommandType::as_str).collect::<Vec<_>>())
            .bind(endpoints.iter().map(EndpointId::as_str).collect::<Vec<_>>())
            .bind(limit)
            .fetch_all(&self.shared.pool)
            .await?;
        rows.into_iter().map(|row| row.item(tenant, application)).collect()
    }

    /// The position of now: what follows is what is not over yet.
    pub(crate) async fn feed_end(&self) -> sqlx::Result<Position> {
        // A transaction that runs now is not older than the snapshot's oldest: it comes.
        let xmin: String = sqlx::query_scalar("SELECT pg_snapshot_xmin(pg_current_snapshot())::text")
            .fetch_one(&self.shared.pool)
            .await?;
        let xmin: u64 =
            xmin.parse().map_err(|_| sqlx::Error::Decode("a transaction cannot be read".into()))?;
        Ok(Position { transaction: xmin.saturating_sub(1), transition: i64::MAX, connectivity: i64::MAX })
    }

    /// Whether something after the position may have been purged already, or the position is not of this database.
    pub(crate) async fn feed_has_gap(
        &self,
        tenant: &TenantId,
        application: &ApplicationName,
        position: &Position,
    ) -> sqlx::Result<bool> {
        sqlx::query_scalar(
            "SELECT $3::text::xid8 > pg_snapshot_xmax(pg_current_snapshot()) OR EXISTS (SELECT FROM feed_floors
             WHERE tenant_id = $1 AND application_name = $2 AND $3::text::xid8 < xact_id)",
        )
        .bind(tenant.as_str())
        .bind(application.as_str())
        .bind(position.transaction.to_string())
        .fetch_one(&self.shared.pool)
        .await
    }
}
