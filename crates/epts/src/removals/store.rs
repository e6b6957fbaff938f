//! The statements of the removal.

use std::time::Duration;

use chrono::{DateTime, Utc};
use ids::{ApplicationName, EndpointId, TenantId};
use sqlx::{PgPool, Postgres, Transaction};

use crate::series;

/// How long nobody else takes a removal that somebody has taken; renewed as it goes on.
const LEASE: Duration = Duration::from_secs(60);
/// The pause before a removal is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// After this time it is no longer waited for an application to go.
const WAIT_FOR_APPLICATION: Duration = Duration::from_secs(3_600);
/// Points that are removed with one statement.
const POINTS_MAX: i64 = 10_000;
/// Series that are looked through with one statement.
const SERIES_MAX: i64 = 500;

#[derive(Clone)]
pub(super) struct Store {
    pool: PgPool,
}

/// What a removal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Endpoint,
    Application,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Application => "application",
        }
    }
}

/// Something that is to be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Removal {
    pub(super) kind: Kind,
    /// Empty for an endpoint.
    pub(super) tenant_id: String,
    pub(super) name: String,
    pub(super) is_old: bool,
    requested_at: DateTime<Utc>,
}

/// Some points of a series that are to be removed. Opened before it is asked whether they may be, for no more is removed than
/// there was when it was opened: what a device is told to be stored later, because its endpoint was registered anew, stays.
pub(super) struct Part {
    transaction: Transaction<'static, Postgres>,
    series_id: i64,
    /// The time of the first point that is not among them; none when these are the last.
    until: Option<DateTime<Utc>>,
}

/// What became of a [`Part`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Removed {
    pub(super) points: u64,
    /// The series had no more.
    pub(super) is_last: bool,
}

impl Part {
    pub(super) async fn remove(mut self) -> sqlx::Result<Removed> {
        let removed =
            sqlx::query("DELETE FROM point WHERE series_id = $1 AND ($2::timestamptz IS NULL OR ts < $2)")
                .bind(self.series_id)
                .bind(self.until)
                .execute(&mut *self.transaction)
                .await?;
        self.transaction.commit().await?;
        Ok(Removed { points: removed.rows_affected(), is_last: self.until.is_none() })
    }
}

impl Store {
    pub(super) fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    pub(super) async fn note_endpoint(&self, endpoint: &EndpointId) -> sqlx::Result<()> {
        // Most endpoints that go have points; of one that has none there is nothing to do.
        self.note(
            "INSERT INTO removals (kind, tenant_id, name)
             SELECT 'endpoint', '', $1 WHERE EXISTS (SELECT FROM series WHERE endpoint_id = $1)
             ON CONFLICT ON CONSTRAINT removals_pkey DO UPDATE SET requested_at = now()",
            &[endpoint.as_str()],
        )
        .await
    }

    pub(super) async fn note_application(
        &self,
        tenant: &TenantId,
        application: &ApplicationName,
    ) -> sqlx::Result<()> {
        self.note(
            "INSERT INTO removals (kind, tenant_id, name)
             SELECT 'application', $1, $2
             WHERE EXISTS (SELECT FROM series WHERE tenant_id = $1 AND application_name = $2)
             ON CONFLICT ON CONSTRAINT removals_pkey DO UPDATE SET requested_at = now()",
            &[tenant.as_str(), application.as_str()],
        )
        .await
    }

    /// Notes all applications of a tenant.
    pub(super) async fn note_tenant(&self, tenant: &TenantId) -> sqlx::Result<()> {
        self.note(
            "INSERT INTO removals (kind, tenant_id, name)
             SELECT 'application', $1, application_name
             FROM (SELECT DISTINCT application_name FROM series WHERE tenant_id = $1) AS applications
             ON CONFLICT ON CONSTRAINT removals_pkey DO UPDATE SET requested_at = now()",
            &[tenant.as_str()],
        )
        .await
    }

    async fn note(&self, sql: &'static str, names: &[&str]) -> sqlx::Result<()> {
        let query = names.iter().fold(sqlx::query(sql), |query, name| query.bind(*name));
        query.execute(&self.pool).await.map(drop)
    }

    /// Takes what is due, one at a time.
    pub(super) async fn take(&self) -> sqlx::Result<Option<Removal>> {
        let row: Option<(String, String, String, DateTime<Utc>, bool)> = sqlx::query_as(
            "UPDATE removals SET due_at = now() + make_interval(secs => $1)
             WHERE (kind, tenant_id, name) = (
                 SELECT kind, tenant_id, name FROM removals WHERE due_at <= now()
                 ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
             RETURNING kind, tenant_id, name, requested_at, requested_at < now() - make_interval(secs => $2)",
        )
        .bind(LEASE.as_secs_f64())
        .bind(WAIT_FOR_APPLICATION.as_secs_f64())
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|(kind, tenant_id, name, requested_at, is_old)| {
            let kind = if kind == Kind::Endpoint.as_str() { Kind::Endpoint } else { Kind::Application };
            Removal { kind, tenant_id, name, is_old, requested_at }
        }))
    }

    /// Forgets what is done, unless it was requested anew in between.
    pub(super) async fn settle(&self, removal: &Removal) -> sqlx::Result<()> {
        sqlx::query(
            "DELETE FROM removals WHERE kind = $1 AND tenant_id = $2 AND name = $3 AND requested_at = $4",
        )
        .bind(removal.kind.as_str())
        .bind(&removal.tenant_id)
        .bind(&removal.name)
        .bind(removal.requested_at)
        .execute(&self.pool)
        .await
        .map(drop)
    }

    pub(super) async fn postpone(&self, removal: &Removal) -> sqlx::Result<()> {
        self.due_in(removal, RETRY_AFTER).await
    }

    async fn due_in(&self, removal: &Removal, pause: Duration) -> sqlx::Result<()> {
        sqlx::query(
            "UPDATE removals SET due_at = now() + make_interval(secs => $4)
             WHERE kind = $1 AND tenant_id = $2 AND name = $3",
        )
        .bind(removal.kind.as_str())
        .bind(&removal.tenant_id)
        .bind(&removal.name)
        .bind(pause.as_secs_f64())
        .execute(&self.pool)
        .await
        .map(drop)
    }

    /// Under which applications an endpoint of this id has series.
    pub(super) async fn owners(
        &self,
        endpoint: &EndpointId,
    ) -> sqlx::Result<Vec<(TenantId, ApplicationName)>> {
        let rows: Vec<(String, String)> =
            sqlx::query_as("SELECT DISTINCT tenant_id, application_name FROM series WHERE endpoint_id = $1")
                .bind(endpoint.as_str())
                .fetch_all(&self.pool)
                .await?;
        let owner = |(tenant, application): &(String, String)| {
            Some((TenantId::parse(tenant).ok()?, ApplicationName::parse(application).ok()?))
        };
        Ok(rows.iter().filter_map(owner).collect())
    }

    /// An endpoint of the application that has series which are not marked.
    pub(super) async fn next_endpoint(
        &self,
        tenant: &TenantId,
        application: &ApplicationName,
    ) -> sqlx::Result<Option<EndpointId>> {
        let endpoint: Option<String> = sqlx::query_scalar(
            "SELECT endpoint_id FROM series
             WHERE tenant_id = $1 AND application_name = $2 AND removed_at IS NULL LIMIT 1",
        )
        .bind(tenant.as_str())
        .bind(application.as_str())
        .fetch_optional(&self.pool)
        .await?;
        Ok(endpoint.and_then(|endpoint| EndpointId::parse(&endpoint).ok()))
    }

    /// The series of an endpoint.
    pub(super) async fn series(
        &self,
        tenant: &TenantId,
        application: &ApplicationName,
        endpoint: &EndpointId,
    ) -> sqlx::Result<Vec<i64>> {
        sqlx::query_scalar(
            "SELECT series_id FROM series
             WHERE tenant_id = $1 AND application_name = $2 AND endpoint_id = $3 ORDER BY series_id",
        )
        .bind(tenant.as_str())
        .bind(application.as_str())
        .bind(endpoint.as_str())
        .fetch_all(&self.pool)
        .await
    }

    /// The oldest points of a series.
    pub(super) async fn part(&self, series_id: i64) -> sqlx::Result<Part> {
        // The first statement decides what the transaction sees.
        let mut transaction = self.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
        let until: Option<DateTime<Utc>> =
            sqlx::query_scalar("SELECT ts FROM point WHERE series_id = $1 ORDER BY ts OFFSET $2 LIMIT 1")
                .bind(series_id)
                .bind(POINTS_MAX)
                .fetch_optional(&mut *transaction)
                .await?;
        Ok(Part { transaction, series_id, until })
    }

    /// Keeps a removal that takes long from others.
    pub(super) async fn hold(&self, removal: &Removal) -> sqlx::Result<()> {
        self.due_in(removal, LEASE).await
    }

    /// Marks series whose points were removed.
    pub(super) async fn mark(&self, series: &[i64]) -> sqlx::Result<()> {
        sqlx::query("UPDATE series SET removed_at = now() WHERE series_id = ANY ($1)")
            .bind(series)
            .execute(&self.pool)
            .await
            .map(drop)
    }

    /// Removes series that were marked so long ago that nobody remembers their ids, unless they have points again.
    pub(super) async fn purge_series(&self) -> sqlx::Result<()> {
        loop {
            let mut transaction = self.pool.begin().await?;
            let series: Vec<i64> = sqlx::query_scalar(
                "SELECT series_id FROM series WHERE removed_at < now() - make_interval(secs => $1)
                 ORDER BY removed_at LIMIT $2 FOR UPDATE SKIP LOCKED",
            )
            .bind(series::MARKED_KEPT.as_secs_f64())
            .bind(SERIES_MAX)
            .fetch_all(&mut *transaction)
            .await?;
            sqlx::query(
                "UPDATE series SET removed_at = NULL
                 WHERE series_id = ANY ($1) AND EXISTS (SELECT FROM point WHERE point.series_id = series.series_id)",
            )
            .bind(&series)
            .execute(&mut *transaction)
            .await?;
            sqlx::query("DELETE FROM series WHERE series_id = ANY ($1) AND removed_at IS NOT NULL")
                .bind(&series)
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await?;
            if series.is_empty() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn store() -> (testkit::Database, Store) {
        let database = testkit::database().await;
        let config = store::Config { url: database.url.clone(), ..store::Config::default() };
        let pool = store::open(&config, "epts", &crate::MIGRATOR).await.unwrap();
        // One partition for all times.
        sqlx::query("CREATE TABLE point_all PARTITION OF point DEFAULT").execute(&pool).await.unwrap();
        (database, Store::new(pool))
    }

    async fn series(store: &Store, endpoint: &str, points: i64) -> i64 {
        let id: i64 = sqlx::query_scalar(
            "INSERT INTO series (tenant_id, application_name, endpoint_id, name) VALUES ('acme', 'app', $1, 's')
             RETURNING series_id",
        )
        .bind(endpoint)
        .fetch_one(&store.pool)
        .await
        .unwrap();
        sqlx::query(
            "INSERT INTO point (series_id, ts, number)
             SELECT $1, to_timestamp(number), number FROM generate_series(1, $2) AS number",
        )
        .bind(id)
        .bind(points)
        .execute(&store.pool)
        .await
        .unwrap();
        id
    }

    async fn ids(store: &Store, sql: &'static str) -> Vec<i64> {
        sqlx::query_scalar(sql).fetch_all(&store.pool).await.unwrap()
    }

    #[tokio::test]
    async fn points_go_part_by_part_and_series_when_nobody_remembers_them() {
        let (_database, store) = store().await;
        let (gone, stays) = (series(&store, "gone", 25_000).await, series(&store, "stays", 3).await);
        let endpoint = |id: &str| EndpointId::parse(id).unwrap();
        let (tenant, application) =
            (TenantId::parse("acme").unwrap(), ApplicationName::parse("app").unwrap());
        store.note_endpoint(&endpoint("gone")).await.unwrap();
        store.note_endpoint(&endpoint("never-seen")).await.unwrap();
        let removal = store.take().await.unwrap().unwrap();
        assert_eq!((removal.kind, removal.name.as_str()), (Kind::Endpoint, "gone"));
        assert_eq!(store.take().await.unwrap(), None, "taken, or nothing to do");
        assert_eq!(store.owners(&endpoint("gone")).await.unwrap(), [(tenant.clone(), application.clone())]);
        assert_eq!(store.series(&tenant, &application, &endpoint("gone")).await.unwrap(), [gone]);
        let part = store.part(gone).await.unwrap();
        // A device of the endpoint that was registered anew stores a point just then, and is told so.
        sqlx::query("INSERT INTO point (series_id, ts, number) VALUES ($1, to_timestamp(0.5), 0)")
            .bind(gone)
            .execute(&store.pool)
            .await
            .unwrap();
        assert_eq!(part.remove().await.unwrap(), Removed { points: 10_000, is_last: false });
        assert_eq!(ids(&store, "SELECT count(*) FROM point WHERE number = 0").await, [1]);
        // Whoever is told that the endpoint is there leaves it at that.
        drop(store.part(gone).await.unwrap());
        for removed in [Removed { points: 10_000, is_last: false }, Removed { points: 5_001, is_last: true }]
        {
            assert_eq!(store.part(gone).await.unwrap().remove().await.unwrap(), removed);
            store.hold(&removal).await.unwrap();
        }
        store.mark(&[gone]).await.unwrap();
        assert_eq!(ids(&store, "SELECT DISTINCT series_id FROM point").await, [stays]);
        // Requested anew while it went on: it is looked at once more.
        store.note_endpoint(&endpoint("gone")).await.unwrap();
        store.settle(&removal).await.unwrap();
        assert_eq!(ids(&store, "SELECT count(*) FROM removals").await, [1]);
        store.postpone(&removal).await.unwrap();

        store.purge_series().await.unwrap();
        assert_eq!(ids(&store, "SELECT series_id FROM series ORDER BY 1").await, [gone, stays]);
        sqlx::query("UPDATE series SET removed_at = now() - interval '3 hours'")
            .execute(&store.pool)
            .await
            .unwrap();
        store.purge_series().await.unwrap();
        // The other one has points: it was in use again.
        assert_eq!(ids(&store, "SELECT series_id FROM series WHERE removed_at IS NULL").await, [stays]);
        assert_eq!(ids(&store, "SELECT count(*) FROM series").await, [1]);
    }

    #[tokio::test]
    async fn a_tenants_applications_are_noted_one_by_one() {
        let (_database, store) = store().await;
        series(&store, "e", 1).await;
        let tenant = TenantId::parse("acme").unwrap();
        store.note_tenant(&TenantId::parse("other").unwrap()).await.unwrap();
        assert_eq!(store.take().await.unwrap(), None);
        store.note_tenant(&tenant).await.unwrap();
        let removal = store.take().await.unwrap().unwrap();
        assert_eq!(
            (removal.kind, removal.tenant_id.as_str(), removal.name.as_str()),
            (Kind::Application, "acme", "app")
        );
        assert!(!removal.is_old);
        let application = ApplicationName::parse("app").unwrap();
        let endpoint = store.next_endpoint(&tenant, &application).await.unwrap().unwrap();
        let series = store.series(&tenant, &application, &endpoint).await.unwrap();
        let removed = store.part(series[0]).await.unwrap().remove().await.unwrap();
        assert_eq!(removed, Removed { points: 1, is_last: true });
        store.mark(&series).await.unwrap();
        assert_eq!(store.next_endpoint(&tenant, &application).await.unwrap(), None);
        store.settle(&removal).await.unwrap();
        assert_eq!(ids(&store, "SELECT count(*) FROM removals").await, [0]);
    }
}
