//! The tables of the service.

mod apply;
mod outbox;

use std::time::Duration;

use ids::{AppVersionName, EndpointId, ReplicaId};
use sqlx::PgPool;
use sqlx::migrate::Migrator;

pub(crate) use apply::Counts;
pub(crate) use outbox::{DueMetadata, DuePoint, Waiting};

pub(crate) static MIGRATOR: Migrator = sqlx::migrate!("./migrations");

/// Endpoints of a dead gateway replica that are ended with one transaction, and rows that are purged with one.
const PART_MAX: i64 = 1_000;

/// All statements of the service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Store {
    pool: PgPool,
    retry_pause_max: Duration,
}

/// A gateway replica that may hold endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gateway {
    pub(crate) replica: ReplicaId,
    /// How often it says that it is alive; none until it has said so.
    pub(crate) interval: Option<Duration>,
}

/// The connectivity of an endpoint, as REST shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Connectivity {
    pub(crate) app_version: AppVersionName,
    pub(crate) is_connected: bool,
    pub(crate) changed_ms: i64,
}

impl Store {
    pub(crate) fn new(pool: PgPool, retry_pause_max: Duration) -> Self {
        Self { pool, retry_pause_max }
    }

    /// Notes that a gateway replica was alive.
    pub(crate) async fn alive(
        &self,
        replica: &ReplicaId,
        alive_ms: i64,
        interval_ms: i64,
    ) -> sqlx::Result<()> {
        sqlx::query(
            "INSERT INTO gateways AS known (replica_id, alive_ms, interval_ms) VALUES ($1, $2, $3)
             ON CONFLICT ON CONSTRAINT gateways_pkey DO UPDATE
             SET alive_ms = greatest(known.alive_ms, excluded.alive_ms), interval_ms = excluded.interval_ms",
        )
        .bind(replica.as_str())
        .bind(alive_ms)
        .bind(interval_ms)
        .execute(&self.pool)
        .await
        .map(drop)
    }

    /// The gateway replicas that hold endpoints, or were alive and are not yet forgotten.
    pub(crate) async fn gateways(&self) -> sqlx::Result<Vec<Gateway>> {
        // One probe of the index for each replica, however many endpoints it holds.
        let rows: Vec<(String, Option<i64>)> = sqlx::query_as(
            "WITH RECURSIVE holding AS (
                 (SELECT min(replica_id) AS replica_id FROM presences WHERE is_up)
                 UNION ALL
                 SELECT (SELECT min(next.replica_id) FROM presences AS next
                         WHERE next.is_up AND next.replica_id > holding.replica_id)
                 FROM holding WHERE holding.replica_id IS NOT NULL)
             SELECT replica_id, gateways.interval_ms
             FROM (SELECT replica_id FROM holding WHERE replica_id IS NOT NULL
                   UNION SELECT replica_id FROM gateways) AS replicas
             LEFT JOIN gateways USING (replica_id)",
        )
        .fetch_all(&self.pool)
        .await?;
        let gateway = |(replica, interval_ms): (String, Option<i64>)| {
            let interval = interval_ms.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
            Some(Gateway { replica: ReplicaId::parse(&replica).ok()?, interval })
        };
        Ok(rows.into_iter().filter_map(gateway).collect())
    }

    /// Endpoints that a gateway replica holds, and of which it has said nothing for so long; a part of them, and when it was
    /// alive last.
    pub(crate) async fn held_by(
        &self,
        replica: &ReplicaId,
        silent_for: Duration,
    ) -> sqlx::Result<(Vec<EndpointId>, i64)> {
        let endpoints: Vec<String> = sqlx::query_scalar(
            "SELECT endpoint_id FROM presences
             WHERE replica_id = $1 AND is_up AND heard_at < now() - make_interval(secs => $2)
             ORDER BY endpoint_id LIMIT $3",
        )
        .bind(replica.as_str())
        .bind(silent_for.as_secs_f64())
        .bind(PART_MAX)
        .fetch_all(&self.pool)
        .await?;
        let alive_ms: Option<i64> = sqlx::query_scalar("SELECT alive_ms FROM gateways WHERE replica_id = $1")
            .bind(replica.as_str())
            .fetch_optional(&self.pool)
            .await?;
        let endpoints = endpoints.iter().filter_map(|id| EndpointId::parse(id).ok()).collect();
        Ok((endpoints, alive_ms.unwrap_or(0)))
    }

    /// Forgets a gateway replica that is dead.
    pub(crate) async fn forget_gateway(&self, replica: &ReplicaId) -> sqlx::Result<()> {
        sqlx::query("DELETE FROM gateways WHERE replica_id = $1")
            .bind(replica.as_str())
            .execute(&self.pool)
            .await
            .map(drop)
    }

    /// Removes what is known of an endpoint that was gone at this time. What is newer is of one that was registered anew.
    pub(crate) async fn remove(&self, endpoint: &EndpointId, gone_ms: i64) -> sqlx::Result<()> {
        let mut transaction = self.pool.begin().await?;
        // The endpoint's row first: whoever changes anything of it holds that.
        for sql in [
            "DELETE FROM endpoints WHERE endpoint_id = $1 AND changed_ms <= $2",
            "DELETE FROM presences WHERE endpoint_id = $1 AND event_ms <= $2",
            "DELETE FROM points WHERE endpoint_id = $1 AND changed_ms <= $2",
        ] {
            sqlx::query(sql).bind(endpoint.as_str()).bind(gone_ms).execute(&mut *transaction).await?;
        }
        transaction.commit().await
    }

    /// Removes what gateway replicas said of endpoints that went long ago: nothing older comes any more.
    pub(crate) async fn purge_presences(&self, older_than: Duration) -> sqlx::Result<u64> {
        let purged = sqlx::query(
            "DELETE FROM presences WHERE ctid = ANY (ARRAY(
                 SELECT ctid FROM presences WHERE NOT is_up AND heard_at < now() - make_interval(secs => $1)
                 ORDER BY heard_at LIMIT $2 FOR UPDATE SKIP LOCKED))",
        )
        .bind(older_than.as_secs_f64())
        .bind(PART_MAX)
        .execute(&self.pool)
        .await?;
        Ok(purged.rows_affected())
    }

    /// What is known of the connectivity of an endpoint.
    pub(crate) async fn connectivity(&self, endpoint: &EndpointId) -> sqlx::Result<Option<Connectivity>> {
        let row: Option<(String, bool, i64)> = sqlx::query_as(
            "SELECT app_version_name, is_connected, changed_ms FROM endpoints
             WHERE endpoint_id = $1 AND is_connected IS NOT NULL",
        )
        .bind(endpoint.as_str())
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.and_then(|(app_version, is_connected, changed_ms)| {
            let app_version = AppVersionName::parse(&app_version).ok()?;
            Some(Connectivity { app_version, is_connected, changed_ms })
        }))
    }
}
