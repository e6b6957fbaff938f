//! Which filters an endpoint matches: kept in the transaction that changes the endpoint.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use ids::EndpointId;
use sqlx::{FromRow, PgConnection};
use tokio::time::Instant;
use uuid::Uuid;

use super::events::{Change, Changes};
use super::set;
use crate::domain::EndpointSnapshot;

/// Who counts, which decides where: those who change one endpoint do not wait for those who match many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counter {
    OneEndpoint,
    ManyEndpoints,
}

/// A row that came or went.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub(super) struct Moved {
    pub(super) filter_id: Uuid,
    pub(super) endpoint_id: String,
    pub(super) matches: bool,
    /// By the clock of the database, which all replicas have in common, while the endpoint is locked.
    pub(super) at: DateTime<Utc>,
}

/// How long queries are evaluated before other work has its turn.
const SLICE: Duration = Duration::from_millis(5);

/// Lets other work have its turn where queries are evaluated: a hundred long ones on large metadata take seconds.
pub(super) struct Turns(Instant);

impl Turns {
    pub(super) fn new() -> Self {
        Self(Instant::now())
    }

    pub(super) async fn pass(&mut self) {
        if self.0.elapsed() > SLICE {
            tokio::task::yield_now().await;
            self.0 = Instant::now();
        }
    }
}

/// Filters and endpoints, pairwise.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    filter_ids: Vec<Uuid>,
    endpoint_ids: Vec<String>,
}

impl Pairs {
    pub(super) fn push(&mut self, filter_id: Uuid, endpoint_id: &str) {
        self.filter_ids.push(filter_id);
        self.endpoint_ids.push(endpoint_id.to_owned());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.filter_ids.is_empty()
    }
}

/// Evaluates the filters of the application against an endpoint as it now is, in the transaction that registers it, or
/// changes its metadata or version. The endpoint's row must be locked already.
pub(crate) async fn reevaluate(
    connection: &mut PgConnection,
    endpoint: &EndpointSnapshot<'_>,
) -> Result<Changes, sqlx::Error> {
    let EndpointSnapshot { endpoint_id, tenant, application, app_version, metadata } = *endpoint;
    set::lock_shared(connection, tenant, application).await?;
    // Nobody else changes the matches of this endpoint while its row is locked.
    let known: Option<(Uuid, Vec<Uuid>)> = sqlx::query_as(
        "SELECT revision, ARRAY(SELECT filter_id FROM endpoint_filter_matches WHERE endpoint_id = $3)
         FROM endpoint_filter_sets WHERE tenant_id = $1 AND application_name = $2",
    )
    .bind(tenant.as_str())
    .bind(application.as_str())
    .bind(endpoint_id.as_str())
    .fetch_optional(&mut *connection)
    .await?;
    let Some((revision, matched)) = known else { return Ok(Changes::default()) };
    let set = set::filters(&mut *connection, tenant, application, revision).await?;
    let matched: BTreeSet<Uuid> = matched.into_iter().collect();
    let (mut began, mut ceased) = (Pairs::default(), Pairs::default());
    let mut turns = Turns::new();
    for filter in &set.filters {
        let Some(query) = &filter.query else { continue };
        turns.pass().await;
        match (matched.contains(&filter.filter_id), query.matches(app_version.as_str(), metadata)) {
            (false, true) => began.push(filter.filter_id, endpoint_id.as_str()),
            (true, false) => ceased.push(filter.filter_id, endpoint_id.as_str()),
            _ => {}
        }
    }
    let moved = apply(connection, began, ceased, Counter::OneEndpoint).await?;
    let name = |filter_id: Uuid| set.filters.iter().find(|filter| filter.filter_id == filter_id);
    let changes = moved.into_iter().filter_map(|moved| {
        Some(Change {
            filter_id: moved.filter_id,
            filter_name: name(moved.filter_id)?.name.clone(),
            application: application.to_string(),
            app_version: app_version.to_string(),
            endpoint_id: moved.endpoint_id,
            matches: moved.matches,
            at_ms: moved.at.timestamp_millis(),
        })
    });
    Ok(Changes(changes.collect()))
}

/// Takes an endpoint out of all filters, in the transaction that hides it. Its row must be locked, and still be there.
pub(crate) async fn unregister(
    connection: &mut PgConnection,
    endpoint_id: &EndpointId,
) -> Result<Changes, sqlx::Error> {
    #[derive(FromRow)]
    struct Matched {
        filter_id: Uuid,
        name: String,
        deleted: bool,
        application_name: String,
        app_version_name: String,
    }
    let matched: Vec<Matched> = sqlx::query_as(
        "SELECT filter_id, filter.name, filter.status = 'DELETED' AS deleted, endpoint.application_name,
             endpoint.app_version_name
         FROM endpoint_filter_matches JOIN endpoint_filters AS filter USING (filter_id)
             JOIN endpoints AS endpoint USING (endpoint_id)
         WHERE endpoint_id = $1",
    )
    .bind(endpoint_id.as_str())
    .fetch_all(&mut *connection)
    .await?;
    let mut ceased = Pairs::default();
    for row in &matched {
        ceased.push(row.filter_id, endpoint_id.as_str());
    }
    let moved = apply(connection, Pairs::default(), ceased, Counter::OneEndpoint).await?;
    // They went at once.
    let at_ms = moved.first().map_or_else(runtime::now_ms, |moved| moved.at.timestamp_millis());
    let changes = matched.into_iter().filter(|row| !row.deleted).map(|row| Change {
        filter_id: row.filter_id,
        filter_name: row.name,
        application: row.application_name,
        app_version: row.app_version_name,
        endpoint_id: endpoint_id.to_string(),
        matches: false,
        at_ms,
    });
    Ok(Changes(changes.collect()))
}

/// Adds and removes matches, and counts. Returns what was really added and removed.
pub(super) async fn apply(
    connection: &mut PgConnection,
    began: Pairs,
    ceased: Pairs,
    counter: Counter,
) -> Result<Vec<Moved>, sqlx::Error> {
    if began.is_empty() && ceased.is_empty() {
        return Ok(Vec::new());
    }
    // Counts are locked in the order of their key.
    let apply = sqlx::query_as(
        "WITH began AS (
             INSERT INTO endpoint_filter_matches (filter_id, endpoint_id)
             SELECT * FROM unnest($1::uuid[], $2::text[])
             ON CONFLICT ON CONSTRAINT endpoint_filter_matches_pkey DO NOTHING
             RETURNING filter_id, endpoint_id
         ), ceased AS (
             DELETE FROM endpoint_filter_matches AS matched
             USING unnest($3::uuid[], $4::text[]) AS pair (filter_id, endpoint_id)
             WHERE matched.filter_id = pair.filter_id AND matched.endpoint_id = pair.endpoint_id
             RETURNING matched.filter_id, matched.endpoint_id
         ), moved AS (
             SELECT filter_id, endpoint_id, true AS matches FROM began
             UNION ALL
             SELECT filter_id, endpoint_id, false FROM ceased
         ), counted AS (
             INSERT INTO endpoint_filter_counts AS counts (filter_id, part, endpoints)
             SELECT filter_id, CASE WHEN $5 THEN 16 ELSE hashtext(endpoint_id) & 15 END AS part,
                 sum(CASE WHEN matches THEN 1 ELSE -1 END)
             FROM moved GROUP BY 1, 2 ORDER BY 1, 2
             ON CONFLICT ON CONSTRAINT endpoint_filter_counts_pkey DO UPDATE
                 SET endpoints = counts.endpoints + excluded.endpoints
         )
         SELECT filter_id, endpoint_id, matches, clock_timestamp() AS at FROM moved",
    );
    apply
        .bind(began.filter_ids)
        .bind(began.endpoint_ids)
        .bind(ceased.filter_ids)
        .bind(ceased.endpoint_ids)
        .bind(counter == Counter::ManyEndpoints)
        .fetch_all(connection)
        .await
}
