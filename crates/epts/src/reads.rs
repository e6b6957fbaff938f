//! Queries.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use ids::{ApplicationName, EndpointId, TenantId, TimeSeriesName};
use serde::Serialize;
use serde_json::{Map, Value};
use sqlx::PgPool;
use sqlx::types::Json;
use utoipa::ToSchema;

use crate::point::{DEFAULT_VALUE_NAME, Micros, UNEXTRACTED_SERIES, json_number};

/// Names of series or applications that are listed at most.
const NAMES_MAX: i64 = 100_000;

/// A point as REST shows it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct PointView {
    /// ISO-8601 in UTC with `Z`; a fraction only where there is one.
    pub timestamp: String,
    /// Value name to number, string, boolean or null.
    #[schema(value_type = Object)]
    pub values: Map<String, Value>,
}

/// Points by series by endpoint.
pub(crate) type PointsByEndpoint = BTreeMap<String, BTreeMap<String, Vec<PointView>>>;

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
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Reads what is stored. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Reads {
    pool: PgPool,
    points_max: u32,
}

type Row = (String, String, DateTime<Utc>, Option<f64>, Option<Json<Map<String, Value>>>);

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
    pub(crate) fn new(pool: PgPool, points_max: u32) -> Self {
        Self { pool, points_max }
    }

    /// The points of the selected series in a span, of each series at most `limit`.
    pub(crate) async fn range(
        &self,
        selection: &Selection,
        span: Span,
        sort: Sort,
        limit: Option<u32>,
    ) -> Result<PointsByEndpoint, ReadError> {
        let sql = match sort {
            Sort::Ascending => RANGE_ASCENDING,
            Sort::Descending => RANGE_DESCENDING,
        };
        let one_too_many = i64::from(self.points_max) + 1;
        let rows: Vec<Row> = sqlx::query_as(sql)
            .persistent(false)
            .bind(selection.tenant_id.as_str())
            .bind(selection.application_name.as_str())
            .bind(selection.series_names())
            .bind(selection.endpoint_ids())
            .bind(span.from.datetime())
            .bind(span.to.datetime())
            .bind(limit.map_or(one_too_many, i64::from))
            .bind(one_too_many)
            .fetch_all(&self.pool)
            .await?;
        self.by_endpoint(rows, sort)
    }

    /// The last point of each selected series before a moment. `page` is how many endpoints to skip and to return.
    pub(crate) async fn last(
        &self,
        selection: &Selection,
        before: Option<Micros>,
        page: (u32, Option<u32>),
    ) -> Result<PointsByEndpoint, ReadError> {
        let rows: Vec<Row> = sqlx::query_as(LAST)
            .persistent(false)
            .bind(selection.tenant_id.as_str())
            .bind(selection.application_name.as_str())
            .bind(selection.series_names())
            .bind(selection.endpoint_ids())
            .bind(before.map(Micros::datetime))
            .bind(i64::from(page.0))
            .bind(page.1.map(i64::from))
            .bind(i64::from(self.points_max) + 1)
            .bind(UNEXTRACTED_SERIES)
            .fetch_all(&self.pool)
            .await?;
        self.by_endpoint(rows, Sort::Ascending)
    }

    fn by_endpoint(&self, mut rows: Vec<Row>, sort: Sort) -> Result<PointsByEndpoint, ReadError> {
        if u32::try_from(rows.len()).map_or(true, |count| count > self.points_max) {
            return Err(ReadError::TooManyPoints(self.points_max));
        }
        rows.sort_by_key(|row| row.2);
        if sort == Sort::Descending {
            rows.reverse();
        }
        let mut points = PointsByEndpoint::new();
        for (endpoint_id, series, ts, number, named) in rows {
            let values = match (named, number) {
                (Some(Json(named)), _) => named,
                (None, number) => {
                    let value = number.map_or(Value::Null, json_number);
                    Map::from_iter([(DEFAULT_VALUE_NAME.to_owned(), value)])
                }
            };
            let point = PointView { timestamp: Micros::from_datetime(ts).to_string(), values };
            points.entry(endpoint_id).or_default().entry(series).or_default().push(point);
        }
        Ok(points)
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
