//! What is still to be told, and who is telling it.
//!
//! Whoever takes something has it to himself for a while ([`LEASE`]), longer than he may try to tell it: so what is told of
//! an endpoint is told one after the other, also by several replicas.

use std::time::Duration;

use ids::{AppVersionName, EndpointId};

use super::{PART_MAX, Store};

/// How long nobody else takes what somebody has taken.
pub(crate) const LEASE: Duration = Duration::from_secs(60);
/// The pause after the first failure; it doubles with each.
const RETRY_PAUSE_S: f64 = 0.25;

/// Metadata of an endpoint that are behind its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DueMetadata {
    pub(crate) endpoint: EndpointId,
    pub(crate) app_version: AppVersionName,
    pub(crate) is_connected: bool,
    pub(crate) changed_ms: i64,
    /// Names the state that is told.
    pub(crate) transitions: i64,
}

/// A transition that is to become a point of a time series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DuePoint {
    pub(crate) point_id: i64,
    pub(crate) endpoint: EndpointId,
    pub(crate) app_version: AppVersionName,
    pub(crate) is_connected: bool,
    pub(crate) changed_ms: i64,
}

/// How much waits to be told.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) metadata: u64,
    pub(crate) points: u64,
}

type Row = (String, String, bool, i64, i64);

impl Store {
    /// Takes endpoints whose metadata are behind; always the newest state.
    pub(crate) async fn take_metadata(&self, limit: u32) -> sqlx::Result<Vec<DueMetadata>> {
        let rows: Vec<Row> = sqlx::query_as(
            "UPDATE endpoints SET metadata_free_at = now() + make_interval(secs => $2)
             WHERE endpoint_id = ANY (ARRAY(
                 SELECT endpoint_id FROM endpoints
                 WHERE metadata_pending AND metadata_free_at <= now() AND is_connected IS NOT NULL
                 ORDER BY metadata_free_at LIMIT $1 FOR UPDATE SKIP LOCKED))
             RETURNING endpoint_id, app_version_name, is_connected, changed_ms, transitions",
        )
        .bind(i64::from(limit))
        .bind(LEASE.as_secs_f64())
        .fetch_all(&self.pool)
        .await?;
        let due = |(endpoint, app_version, is_connected, changed_ms, transitions): Row| {
            let endpoint = EndpointId::parse(&endpoint).ok()?;
            let app_version = AppVersionName::parse(&app_version).ok()?;
            Some(DueMetadata { endpoint, app_version, is_connected, changed_ms, transitions })
        };
        Ok(rows.into_iter().filter_map(due).collect())
    }

    /// Notes that metadata were written, or need not be. If the state has changed since, they are due again.
    pub(crate) async fn settle_metadata(&self, done: &[&DueMetadata]) -> sqlx::Result<()> {
        if done.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "WITH done AS (
                 SELECT endpoint_id, done.transitions
                 FROM unnest($1::text[], $2::bigint[]) AS done (endpoint_id, transitions)
                 JOIN endpoints USING (endpoint_id)
                 ORDER BY endpoint_id FOR UPDATE OF endpoints)
             UPDATE endpoints
             SET metadata_pending = endpoints.transitions <> done.transitions, metadata_attempts = 0,
                 metadata_free_at = now()
             FROM done WHERE endpoints.endpoint_id = done.endpoint_id",
        )
        .bind(done.iter().map(|due| due.endpoint.as_str()).collect::<Vec<_>>())
        .bind(done.iter().map(|due| due.transitions).collect::<Vec<_>>())
        .execute(&self.pool)
        .await
        .map(drop)
    }

    /// Gives metadata back that could not be written now.
    pub(crate) async fn postpone_metadata(&self, failed: &[&DueMetadata]) -> sqlx::Result<()> {
        if failed.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "WITH failed AS (
                 SELECT endpoint_id FROM endpoints WHERE endpoint_id = ANY ($1) ORDER BY endpoint_id FOR UPDATE)
             UPDATE endpoints
             SET metadata_attempts = metadata_attempts + 1,
                 metadata_free_at = now() + make_interval(secs =>
                     least($2, $3 * power(2, least(metadata_attempts, 20))) * (0.75 + random() / 2))
             FROM failed WHERE endpoints.endpoint_id = failed.endpoint_id",
        )
        .bind(failed.iter().map(|due| due.endpoint.as_str()).collect::<Vec<_>>())
        .bind(self.retry_pause_max.as_secs_f64())
        .bind(RETRY_PAUSE_S)
        .execute(&self.pool)
        .await
        .map(drop)
    }

    /// Takes transitions that are to become points.
    pub(crate) async fn take_points(&self, limit: u32) -> sqlx::Result<Vec<DuePoint>> {
        let rows: Vec<(i64, String, String, bool, i64)> = sqlx::query_as(
            "UPDATE points SET free_at = now() + make_interval(secs => $2)
             WHERE point_id = ANY (ARRAY(
                 SELECT point_id FROM points WHERE free_at <= now()
                 ORDER BY free_at, point_id LIMIT $1 FOR UPDATE SKIP LOCKED))
             RETURNING point_id, endpoint_id, app_version_name, is_connected, changed_ms",
        )
        .bind(i64::from(limit))
        .bind(LEASE.as_secs_f64())
        .fetch_all(&self.pool)
        .await?;
        let due = |(point_id, endpoint, app_version, is_connected, changed_ms): (
            i64,
            String,
            String,
            bool,
            i64,
        )| {
            let endpoint = EndpointId::parse(&endpoint).ok()?;
            let app_version = AppVersionName::parse(&app_version).ok()?;
            Some(DuePoint { point_id, endpoint, app_version, is_connected, changed_ms })
        };
        Ok(rows.into_iter().filter_map(due).collect())
    }

    /// Removes points that were stored, or need not be.
    pub(crate) async fn settle_points(&self, done: &[i64]) -> sqlx::Result<()> {
        if done.is_empty() {
            return Ok(());
        }
        sqlx::query("DELETE FROM points WHERE point_id = ANY ($1)")
            .bind(done)
            .execute(&self.pool)
            .await
            .map(drop)
    }

    /// Gives points back that could not be stored now.
    pub(crate) async fn postpone_points(&self, failed: &[i64]) -> sqlx::Result<()> {
        if failed.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "UPDATE points
             SET attempts = attempts + 1,
                 free_at = now() + make_interval(secs =>
                     least($2, $3 * power(2, least(attempts, 20))) * (0.75 + random() / 2))
             WHERE point_id = ANY ($1)",
        )
        .bind(failed)
        .bind(self.retry_pause_max.as_secs_f64())
        .bind(RETRY_PAUSE_S)
        .execute(&self.pool)
        .await
        .map(drop)
    }

    /// Drops points that nobody took for so long, and the oldest of too many; a part of them.
    pub(crate) async fn purge_points(&self, older_than: Duration, points_max: u32) -> sqlx::Result<u64> {
        let purged = sqlx::query(
            "DELETE FROM points WHERE point_id = ANY (ARRAY(
                 SELECT point_id FROM points
                 WHERE created_at < now() - make_interval(secs => $1)
                     OR point_id <= (SELECT point_id FROM points ORDER BY point_id DESC OFFSET $2 LIMIT 1)
                 ORDER BY point_id LIMIT $3 FOR UPDATE SKIP LOCKED))",
        )
        .bind(older_than.as_secs_f64())
        .bind(i64::from(points_max))
        .bind(PART_MAX)
        .execute(&self.pool)
        .await?;
        Ok(purged.rows_affected())
    }

    /// How much waits to be told.
    pub(crate) async fn waiting(&self) -> sqlx::Result<Waiting> {
        let (metadata, points): (i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM endpoints WHERE metadata_pending), (SELECT count(*) FROM points)",
        )
        .fetch_one(&self.pool)
        .await?;
        let count = |count| u64::try_from(count).unwrap_or(0);
        Ok(Waiting { metadata: count(metadata), points: count(points) })
    }
}
