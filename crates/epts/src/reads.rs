//! Queries.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures::TryStreamExt as _;
use ids::{ApplicationName, EndpointId, TenantId, TimeSeriesName};
use serde::Serialize;
use serde::ser::{SerializeMap as _, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;
use sqlx::postgres::PgArguments;
use sqlx::query::QueryAs;
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool, Postgres};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use utoipa::ToSchema;

use crate::point::{DEFAULT_VALUE_NAME, Micros, UNEXTRACTED_SERIES, json_number};

/// Names of series or applications that are listed at most.
const NAMES_MAX: i64 = 100_000;
/// A query whose values take more than this is a large one.
const LARGE_BYTES: usize = 1 << 20;
/// Large queries that are answered at the same time.
const LARGE_MAX: usize = 4;

/// A point as REST shows it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct PointView {
    /// ISO-8601 in UTC with `Z`; a fraction only where there is one.
    pub timestamp: String,
    /// Value name to number, string, boolean or null.
    #[schema(value_type = Object)]
    pub values: PointValues,
}

/// The values of a point, kept as they are stored: as JSON in memory they would take many times that.
#[derive(Debug, Clone)]
pub enum PointValues {
    /// A single number called `value`.
    Number(Option<f64>),
    /// A JSON object, value name to value.
    Named(Box<RawValue>),
}

impl PointValues {
    fn bytes(&self) -> usize {
        match self {
            Self::Number(_) => size_of::<f64>(),
            Self::Named(named) => named.get().len(),
        }
    }
}

impl Serialize for PointValues {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry(DEFAULT_VALUE_NAME, &number.map_or(Value::Null, json_number))?;
                map.end()
            }
            Self::Named(named) => named.serialize(serializer),
        }
    }
}

/// Points by series by endpoint.
pub(crate) type PointsByEndpoint = BTreeMap<String, BTreeMap<String, Vec<PointView>>>;

/// The answer to a query.
pub(crate) struct Answer {
    pub(crate) points: PointsByEndpoint,
    /// A large answer's place among [`LARGE_MAX`]; given back when it is dropped.
    pub(crate) _place: Option<OwnedSemaphorePermit>,
}

/// Which series of which endpoints. `None` and empty lists stand for all.
pub(crate) struct Selection {
    pub(crate) tenant_id: TenantId,
    pub(crate) application_name: ApplicationName,
    pub(crate) series: Vec<TimeSeriesName>,
    pub(crate) endpoints: Vec<EndpointId>,
}

/// In which order the points of a series come, and from which end a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    Ascending,
    Descending,
}

/// The moments of a query: `from` included, `to` not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from: Micros,
    pub(crate) to: Micros,
}

/// Why a query was not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error(
        "the query asks for more than {0} points (epts.points_per_query_max); narrow the range, name fewer endpoints or use `limit`"
    )]
    TooManyPoints(u32),
    #[error(
        "the values that the query asks for take more than {0} bytes (epts.bytes_per_query_max); narrow the range, name fewer endpoints or use `limit`"
    )]
    TooManyBytes(u32),
    #[error("{LARGE_MAX} large queries are being answered; try again or ask for less")]
    Busy,
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Reads what is stored. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Reads {
    pool: PgPool,
    points_max: u32,
    bytes_max: u32,
    large: Arc<Semaphore>,
}

type Row = (String, String, DateTime<Utc>, Option<f64>, Option<Json<Box<RawValue>>>);
type RowQuery<'a> = QueryAs<'a, Postgres, Row, PgArguments>;

/// What a query found, in no order.
#[derive(Default)]
struct Found {
    points: Vec<(String, String, DateTime<Utc>, PointValues)>,
    bytes: usize,
    place: Option<OwnedSemaphorePermit>,
}

// The number comes from the index alone; only a point that is more than a number is fetched from the table.
// How many rows there can be is limited, and so they are put in order here and not by the database, which would first
// have to read them all. They are planned anew each time, so that only the partitions of the span are opened and locked.
const RANGE_ASCENDING: &str = r#"
SELECT s.endpoint_id, s.name, p.ts, p.number, p.named
FROM series AS s CROSS JOIN LATERAL (
    SELECT point.ts, point.number, CASE WHEN point.number IS NULL THEN
        (SELECT whole."values" FROM point AS whole WHERE whole.series_id = point.series_id AND whole.ts = point.ts
         AND whole.ts >= $5 AND whole.ts < $6) END AS named
    FROM point WHERE point.series_id = s.series_id AND point.ts >= $5 AND point.ts < $6
    ORDER BY point.ts ASC LIMIT $7) AS p
WHERE s.tenant_id = $1 AND s.application_name = $2 AND s.name = ANY($3) AND ($4::text[] IS NULL OR s.endpoint_id = ANY($4))
LIMIT $8"#;

const RANGE_DESCENDING: &str = r#"
SELECT s.endpoint_id, s.name, p.ts, p.number, p.named
FROM series AS s CROSS JOIN LATERAL (
    SELECT point.ts, point.number, CASE WHEN point.number IS NULL THEN
        (SELECT whole."values" FROM point AS whole WHERE whole.series_id = point.series_id AND whole.ts = point.ts
         AND whole.ts >= $5 AND whole.ts < $6) END AS named
    FROM point WHERE point.series_id = s.series_id AND point.ts >= $5 AND point.ts < $6
    ORDER BY point.ts DESC LIMIT $7) AS p
WHERE s.tenant_id = $1 AND s.application_name = $2 AND s.name = ANY($3) AND ($4::text[] IS NULL OR s.endpoint_id = ANY($4))
LIMIT $8"#;

/// The last point of each series, for a page of endpoints in the order of their ids.
const LAST: &str = r#"
WITH chosen AS MATERIALIZED (
    SELECT series_id, endpoint_id, name FROM series
    WHERE tenant_id = $1 AND application_name = $2 AND name <> $9
      AND ($3::text[] IS NULL OR name = ANY($3)) AND ($4::text[] IS NULL OR endpoint_id = ANY($4))),
page AS (SELECT DISTINCT endpoint_id FROM chosen ORDER BY endpoint_id OFFSET $6 LIMIT $7)
SELECT s.endpoint_id, s.name, p.ts, p.number, p.named
FROM page JOIN chosen AS s USING (endpoint_id) CROSS JOIN LATERAL (
    SELECT point.ts, point.number, CASE WHEN point.number IS NULL THEN
        (SELECT whole."values" FROM point AS whole WHERE whole.series_id = point.series_id AND whole.ts = point.ts) END AS named
    FROM point WHERE point.series_id = s.series_id AND point.ts < COALESCE($5, 'infinity'::timestamptz)
    ORDER BY point.ts DESC LIMIT 1) AS p
LIMIT $8"#;

impl Reads {
    /// `points_max` and `bytes_max` bound the answer to one query.
    pub(crate) fn new(pool: PgPool, points_max: u32, bytes_max: u32) -> Self {
        Self { pool, points_max, bytes_max, large: Arc::new(Semaphore::new(LARGE_MAX)) }
    }

    /// The points of the selected series in a span, of each series at most `limit`.
    pub(crate) async fn range(
        &self,
        selection: &Selection,
        span: Span,
        sort: Sort,
        limit: Option<u32>,
    ) -> Result<Answer, ReadError> {
        let sql = match sort {
            Sort::Ascending => RANGE_ASCENDING,
            Sort::Descending => RANGE_DESCENDING,
        };
        let one_too_many = i64::from(self.points_max) + 1;
        let query = sqlx::query_as(sql)
            .persistent(false)
            .bind(selection.tenant_id.as_str())
            .bind(selection.application_name.as_str())
            .bind(selection.series_names())
            .bind(selection.endpoint_ids())
            .bind(span.from.datetime())
            .bind(span.to.datetime())
            .bind(limit.map_or(one_too_many, i64::from))
            .bind(one_too_many);
        Ok(by_endpoint(self.find(query).await?, sort))
    }

    /// The last point of each selected series before a moment. `page` is how many endpoints to skip and to return.
    pub(crate) async fn last(
        &self,
        selection: &Selection,
        before: Option<Micros>,
        page: (u32, Option<u32>),
    ) -> Result<Answer, ReadError> {
        let query = sqlx::query_as(LAST)
            .persistent(false)
            .bind(selection.tenant_id.as_str())
            .bind(selection.application_name.as_str())
            .bind(selection.series_names())
            .bind(selection.endpoint_ids())
            .bind(before.map(Micros::datetime))
            .bind(i64::from(page.0))
            .bind(page.1.map(i64::from))
            .bind(i64::from(self.points_max) + 1)
            .bind(UNEXTRACTED_SERIES);
        Ok(by_endpoint(self.find(query).await?, Sort::Ascending))
    }

    async fn find(&self, query: RowQuery<'_>) -> Result<Found, ReadError> {
        let mut connection = self.pool.acquire().await?;
        let found = self.gather(&mut connection, query).await;
        if found.is_err() {
            // What the server has still to send may be gigabytes, and the pool would read it all before the connection is
            // used again.
            drop(connection.detach());
        }
        found
    }

    /// Takes the rows one by one, and no more than the limits allow.
    async fn gather(&self, connection: &mut PgConnection, query: RowQuery<'_>) -> Result<Found, ReadError> {
        let mut found = Found::default();
        let mut rows = query.fetch(connection);
        while let Some((endpoint_id, series, ts, number, named)) = rows.try_next().await? {
            let values = named.map_or(PointValues::Number(number), |Json(named)| PointValues::Named(named));
            found.bytes += values.bytes();
            found.points.push((endpoint_id, series, ts, values));
            if exceeds(found.points.len(), self.points_max) {
                return Err(ReadError::TooManyPoints(self.points_max));
            }
            if exceeds(found.bytes, self.bytes_max) {
                return Err(ReadError::TooManyBytes(self.bytes_max));
            }
            if found.bytes > LARGE_BYTES && found.place.is_none() {
                // It does not wait, because meanwhile it would keep a connection from the writers.
                let place = self.large.clone().try_acquire_owned().map_err(|_| ReadError::Busy)?;
                found.place = Some(place);
            }
        }
        Ok(found)
    }

    /// The applications of a tenant that have data.
    pub(crate) async fn applications(&self, tenant_id: &TenantId) -> sqlx::Result<Vec<String>> {
        // From one name to the next by the index, instead of through all series.
        sqlx::query_scalar(
            "WITH RECURSIVE seen (name) AS (
                 (SELECT application_name FROM series WHERE tenant_id = $1 ORDER BY application_name LIMIT 1)
                 UNION ALL
                 SELECT (SELECT application_name FROM series WHERE tenant_id = $1 AND application_name > seen.name
                         ORDER BY application_name LIMIT 1)
                 FROM seen WHERE seen.name IS NOT NULL)
             SELECT name FROM seen WHERE name IS NOT NULL LIMIT $2",
        )
        .bind(tenant_id.as_str())
        .bind(NAMES_MAX)
        .fetch_all(&self.pool)
        .await
    }

    /// The names of the series that an application has data in.
    pub(crate) async fn series_names(
        &self,
        tenant_id: &TenantId,
        application: &str,
    ) -> sqlx::Result<Vec<String>> {
        sqlx::query_scalar(
            "WITH RECURSIVE seen (name) AS (
                 (SELECT name FROM series WHERE tenant_id = $1 AND application_name = $2 ORDER BY name LIMIT 1)
                 UNION ALL
                 SELECT (SELECT name FROM series WHERE tenant_id = $1 AND application_name = $2 AND name > seen.name
                         ORDER BY name LIMIT 1)
                 FROM seen WHERE seen.name IS NOT NULL)
             SELECT name FROM seen WHERE name IS NOT NULL AND name <> $3 LIMIT $4",
        )
        .bind(tenant_id.as_str())
        .bind(application)
        .bind(UNEXTRACTED_SERIES)
        .bind(NAMES_MAX)
        .fetch_all(&self.pool)
        .await
    }
}

fn exceeds(count: usize, max: u32) -> bool {
    u32::try_from(count).map_or(true, |count| count > max)
}

fn by_endpoint(mut found: Found, sort: Sort) -> Answer {
    found.points.sort_by_key(|point| point.2);
    if sort == Sort::Descending {
        found.points.reverse();
    }
    let mut points = PointsByEndpoint::new();
    for (endpoint_id, series, ts, values) in found.points {
        let point = PointView { timestamp: Micros::from_datetime(ts).to_string(), values };
        points.entry(endpoint_id).or_default().entry(series).or_default().push(point);
    }
    Answer { points, _place: found.place }
}

impl Selection {
    fn series_names(&self) -> Option<Vec<&str>> {
        texts(self.series.iter().map(TimeSeriesName::as_str))
    }

    fn endpoint_ids(&self) -> Option<Vec<&str>> {
        texts(self.endpoints.iter().map(EndpointId::as_str))
    }
}

fn texts<'a>(texts: impl Iterator<Item = &'a str>) -> Option<Vec<&'a str>> {
    let texts: Vec<&str> = texts.collect();
    (!texts.is_empty()).then_some(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn large_queries_are_few_at_a_time_and_small_ones_go_on() {
        let database = testkit::database().await;
        let config = store::Config { url: database.url.clone(), ..store::Config::default() };
        let pool = store::open(&config, "epts", &crate::MIGRATOR).await.unwrap();
        sqlx::raw_sql(
            "CREATE TABLE point_all PARTITION OF point DEFAULT;
             INSERT INTO series (tenant_id, application_name, endpoint_id, name) VALUES ('acme', 'app', 'e', 's'), ('acme', 'app', 'e', 'n');
             INSERT INTO point SELECT series_id, now(), NULL, jsonb_build_object('value', repeat('x', 1100000)) FROM series WHERE name = 's';
             INSERT INTO point SELECT series_id, now(), 1, NULL FROM series WHERE name = 'n';",
        )
        .execute(&pool)
        .await
        .unwrap();
        let reads = Reads::new(pool, 10, 2 << 20);
        let last = async |series: &str| {
            let selection = Selection {
                tenant_id: TenantId::parse("acme").unwrap(),
                application_name: ApplicationName::parse("app").unwrap(),
                series: vec![TimeSeriesName::parse(series).unwrap()],
                endpoints: Vec::new(),
            };
            reads.last(&selection, None, (0, None)).await
        };
        let mut held = Vec::new();
        for _ in 0..LARGE_MAX {
            held.push(last("s").await.unwrap());
        }
        assert!(matches!(last("s").await, Err(ReadError::Busy)));
        let small = serde_json::to_value(last("n").await.unwrap().points).unwrap();
        assert_eq!(small["e"]["n"][0]["values"], serde_json::json!({"value": 1}));
        held.pop();
        assert!(last("s").await.is_ok());
    }
}
