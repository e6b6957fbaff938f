//! Filters in PostgreSQL.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use ids::{ApplicationName, EndpointId, TenantId};
use sqlx::{FromRow, PgConnection, PgPool, Postgres, QueryBuilder};
use store::ConstraintExt as _;
use uuid::Uuid;

use super::definition::{Filter, FilterPatch, MongoQuery, NewFilter, Status};
use super::{Error, set};

/// The columns of a [`FilterRow`].
const COLUMNS: &str =
    "filter_id, name, description, mongo_query::text AS mongo_query, status, created_at, updated_at, version,
    (SELECT coalesce(sum(endpoints), 0)::bigint FROM endpoint_filter_counts AS counts
     WHERE counts.filter_id = endpoint_filters.filter_id) AS matched";

/// Filters. Cheap to clone.
#[derive(Clone)]
pub(crate) struct FilterStore {
    pool: PgPool,
}

/// A filter after a change.
#[derive(Debug)]
pub(super) struct Updated {
    pub(super) filter: Filter,
    /// Whether its endpoints are looked at anew.
    pub(super) is_matched_anew: bool,
}

/// A filter whose matches are complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ActiveFilter {
    pub(crate) filter_id: Uuid,
    pub(crate) application: ApplicationName,
}

#[derive(FromRow)]
struct FilterRow {
    filter_id: Uuid,
    name: String,
    description: Option<String>,
    mongo_query: String,
    status: Status,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    version: i64,
    matched: i64,
}

impl TryFrom<FilterRow> for Filter {
    type Error = Error;

    fn try_from(row: FilterRow) -> Result<Self, Error> {
        let mongo_query = MongoQuery::stored(row.mongo_query);
        Ok(Self {
            id: row.filter_id,
            name: row.name,
            description: row.description,
            mongo_query: mongo_query.map_err(|error| sqlx::Error::Decode(error.into()))?,
            status: row.status,
            created_date: row.created_at,
            updated_date: row.updated_at,
            matched_endpoints_count: row.matched,
            version: row.version,
        })
    }
}

impl Filter {
    /// Names this state of what was sent.
    pub(super) fn tag(&self) -> String {
        self.version.to_string()
    }
}

impl FilterStore {
    pub(super) fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// A page of the filters of an application, oldest first, and how many there are in all.
    pub(super) async fn filters(
        &self,
        tenant: &TenantId,
        application: &ApplicationName,
        name: Option<&str>,
        offset: i64,
        limit: i64,
    ) -> Result<(i64, Vec<Filter>), Error> {
        let total = sqlx::query_scalar(
            "SELECT count(*) FROM endpoint_filters
             WHERE tenant_id = $1 AND application_name = $2 AND ($3::text IS NULL OR name = $3)
                 AND status <> 'DELETED'",
        );
        let total: i64 =
            total.bind(tenant.as_str()).bind(application.as_str()).bind(name).fetch_one(&self.pool).await?;
        let mut select = QueryBuilder::<Postgres>::new("SELECT ");
        select.push(COLUMNS).push(" FROM endpoint_filters WHERE status <> 'DELETED' AND tenant_id = ");
        select.push_bind(tenant.as_str().to_owned()).push(" AND application_name = ");
        select.push_bind(application.as_str().to_owned());
        if let Some(name) = name {
            select.push(" AND name = ").push_bind(name.to_owned());
        }
        select.push(" ORDER BY created_at, filter_id OFFSET ").push_bind(offset);
        select.push(" LIMIT ").push_bind(limit);
        let rows: Vec<FilterRow> = select.build_query_as().fetch_all(&self.pool).await?;
        Ok((total, rows.into_iter().map(Filter::try_from).collect::<Result<_, _>>()?))
    }

    /// One filter.
    pub(super) async fn filter(
        &self,
        tenant: &TenantId,
        application: &ApplicationName,
        filter_id: Uuid,
    ) -> Result<Filter, Error> {
        let mut connection = self.pool.acquire().await?;
        read(&mut connection, tenant, application, filter_id, "").await
    }

    /// Creates a filter. Nothing matches it yet.
    pub(super) async fn create(
        &self,
        tenant: &TenantId,
        application: &ApplicationName,
        new: &NewFilter,
        max: i64,
    ) -> Result<Filter, Error> {
        let mut transaction = self.pool.begin().await?;
        set::lock(&mut transaction, tenant, application).await?;
        let count = sqlx::query_scalar(
            "SELECT count(*) FROM endpoint_filters
             WHERE tenant_id = $1 AND application_name = $2 AND status <> 'DELETED'",
        );
        let count: i64 =
            count.bind(tenant.as_str()).bind(application.as_str()).fetch_one(&mut *transaction).await?;
        if count >= max {
            return Err(Error::TooMany { max });
        }
        let filter_id = Uuid::new_v4();
        sqlx::query(
            "INSERT INTO endpoint_filters (filter_id, tenant_id, application_name, name, description, mongo_query,
                 status)
             VALUES ($1, $2, $3, $4, $5, $6::text::json, 'PENDING')",
        )
        .bind(filter_id)
        .bind(tenant.as_str())
        .bind(application.as_str())
        .bind(&new.name)
        .bind(new.description.as_deref())
        .bind(new.mongo_query.as_sent())
        .execute(&mut *transaction)
        .await
        .on_constraint("endpoint_filters_name_key", || Error::NameTaken(new.name.clone()))?;
        set::renew(&mut transaction, tenant, application).await?;
        let filter = read(&mut transaction, tenant, application, filter_id, "").await?;
        transaction.commit().await?;
        Ok(filter)
    }

    /// Changes a filter. Another query makes it PENDING.
    pub(super) async fn update(
        &self,
        tenant: &TenantId,
        application: &ApplicationName,
        filter_id: Uuid,
        patch: FilterPatch,
        if_match: &rest::IfMatch,
    ) -> Result<Updated, Error> {
        let mut transaction = self.pool.begin().await?;
        let filter = read(&mut transaction, tenant, application, filter_id, LOCKED).await?;
        check_tag(&filter, if_match)?;
        let query = patch.mongo_query.as_ref().unwrap_or(&filter.mongo_query);
        let is_matched_anew = !query.is_same_as(&filter.mongo_query);
        let name = patch.name.as_ref().unwrap_or(&filter.name);
        let description = patch.description.as_ref().unwrap_or(&filter.description);
        let is_as_it_was = query.as_sent() == filter.mongo_query.as_sent()
            && *name == filter.name
            && *description == filter.description;
        if is_as_it_was {
            return Ok(Updated { filter, is_matched_anew: false });
        }
        set::lock(&mut transaction, tenant, application).await?;
        sqlx::query(
            "UPDATE endpoint_filters SET name = $2, description = $3, mongo_query = $4::text::json,
                 version = version + 1, updated_at = clock_timestamp(),
                 status = CASE WHEN $5 THEN 'PENDING' ELSE status END,
                 looked_at_created_at = CASE WHEN NOT $5 THEN looked_at_created_at END,
                 looked_at_endpoint_id = CASE WHEN NOT $5 THEN looked_at_endpoint_id END,
                 step_endpoints = CASE WHEN NOT $5 THEN step_endpoints END
             WHERE filter_id = $1",
        )
        .bind(filter_id)
        .bind(name)
        .bind(description.as_deref())
        .bind(query.as_sent())
        .bind(is_matched_anew)
        .execute(&mut *transaction)
        .await
        .on_constraint("endpoint_filters_name_key", || Error::NameTaken(name.clone()))?;
        set::renew(&mut transaction, tenant, application).await?;
        let filter = read(&mut transaction, tenant, application, filter_id, "").await?;
        transaction.commit().await?;
        Ok(Updated { filter, is_matched_anew })
    }

    /// Deletes a filter: nobody sees it any more. Its matches go later.
    pub(super) async fn delete(
        &self,
        tenant: &TenantId,
        application: &ApplicationName,
        filter_id: Uuid,
        if_match: &rest::IfMatch,
    ) -> Result<Filter, Error> {
        let mut transaction = self.pool.begin().await?;
        let filter = read(&mut transaction, tenant, application, filter_id, LOCKED).await?;
        check_tag(&filter, if_match)?;
        set::lock(&mut transaction, tenant, application).await?;
        sqlx::query("UPDATE endpoint_filters SET status = 'DELETED' WHERE filter_id = $1")
            .bind(filter_id)
            .execute(&mut *transaction)
            .await?;
        set::renew(&mut transaction, tenant, application).await?;
        transaction.commit().await?;
        Ok(filter)
    }

    /// The filters of an application, or of all of a tenant, that were created until a time.
    pub(super) async fn created_until(
        &self,
        tenant: &TenantId,
        application: Option<&ApplicationName>,
        until: DateTime<Utc>,
    ) -> Result<Vec<(ApplicationName, Uuid)>, Error> {
        let rows: Vec<(String, Uuid)> = sqlx::query_as(
            "SELECT application_name, filter_id FROM endpoint_filters
             WHERE tenant_id = $1 AND ($2::text IS NULL OR application_name = $2) AND created_at <= $3
                 AND status <> 'DELETED'",
        )
        .bind(tenant.as_str())
        .bind(application.map(ApplicationName::as_str))
        .bind(until)
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(|(application, filter_id)| Ok((stored_name(&application)?, filter_id))).collect()
    }

    /// A filter of the tenant by which endpoints may be searched.
    pub(crate) async fn active(&self, tenant: &TenantId, filter_id: &str) -> Result<ActiveFilter, Error> {
        let unknown = || Error::UnknownFilter(filter_id.to_owned());
        let id = Uuid::try_parse(filter_id).map_err(|_| unknown())?;
        let row: Option<(String, Status)> = sqlx::query_as(
            "SELECT application_name, status FROM endpoint_filters
             WHERE filter_id = $1 AND tenant_id = $2 AND status <> 'DELETED'",
        )
        .bind(id)
        .bind(tenant.as_str())
        .fetch_optional(&self.pool)
        .await?;
        match row {
            None => Err(unknown()),
            Some((_, Status::Pending)) => Err(Error::Pending(id)),
            Some((application, Status::Active)) => {
                Ok(ActiveFilter { filter_id: id, application: stored_name(&application)? })
            }
        }
    }

    /// The active filters that each of some endpoints matches; endpoints that match none are left out.
    pub(crate) async fn filters_of(
        &self,
        endpoint_ids: &[String],
    ) -> Result<HashMap<String, Vec<String>>, sqlx::Error> {
        let rows: Vec<(String, Uuid)> = sqlx::query_as(
            "SELECT endpoint_id, filter_id FROM endpoint_filter_matches JOIN endpoint_filters USING (filter_id)
             WHERE endpoint_id = ANY ($1) AND status = 'ACTIVE' ORDER BY endpoint_id, filter_id",
        )
        .bind(endpoint_ids)
        .fetch_all(&self.pool)
        .await?;
        let mut filters: HashMap<String, Vec<String>> = HashMap::new();
        for (endpoint_id, filter_id) in rows {
            filters.entry(endpoint_id).or_default().push(filter_id.to_string());
        }
        Ok(filters)
    }

    /// Whether there is an endpoint with this id.
    pub(super) async fn is_registered(&self, endpoint_id: &EndpointId) -> Result<bool, sqlx::Error> {
        let is_registered = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM endpoints WHERE endpoint_id = $1 AND registered_at IS NOT NULL)",
        );
        is_registered.bind(endpoint_id.as_str()).fetch_one(&self.pool).await
    }

    /// The status of a filter of any tenant.
    pub(super) async fn status(&self, filter_id: Uuid) -> Result<Option<Status>, sqlx::Error> {
        let status = sqlx::query_scalar(
            "SELECT status FROM endpoint_filters WHERE filter_id = $1 AND status <> 'DELETED'",
        );
        status.bind(filter_id).fetch_optional(&self.pool).await
    }

    /// The endpoints that match a filter, by their versions; none when there are more than `max`.
    pub(super) async fn endpoints_of(
        &self,
        filter_id: Uuid,
        max: i64,
    ) -> Result<Option<BTreeMap<String, Vec<String>>>, sqlx::Error> {
        let rows: Vec<(String, String)> = sqlx::query_as(
            "SELECT endpoint.app_version_name, endpoint_id
             FROM (SELECT endpoint_id FROM endpoint_filter_matches WHERE filter_id = $1 ORDER BY endpoint_id LIMIT $2)
                 AS matched JOIN endpoints AS endpoint USING (endpoint_id)
             WHERE endpoint.registered_at IS NOT NULL",
        )
        .bind(filter_id)
        .bind(max.saturating_add(1))
        .fetch_all(&self.pool)
        .await?;
        if rows.len() > usize::try_from(max).unwrap_or(usize::MAX) {
            return Ok(None);
        }
        let mut endpoints: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (version, endpoint_id) in rows {
            endpoints.entry(version).or_default().push(endpoint_id);
        }
        Ok(Some(endpoints))
    }
}

/// Restricts a query over a table or alias with an `endpoint_id` to the endpoints that match a filter. For fixed text only:
/// the column stands in the SQL.
pub(crate) fn push_matching(sql: &mut QueryBuilder<Postgres>, column: &'static str, filter: &ActiveFilter) {
    sql.push(column).push(" IN (SELECT endpoint_id FROM endpoint_filter_matches WHERE filter_id = ");
    sql.push_bind(filter.filter_id).push(")");
}

/// Locks the filter's row: for whoever changes it.
const LOCKED: &str = " FOR UPDATE";

async fn read(
    connection: &mut PgConnection,
    tenant: &TenantId,
    application: &ApplicationName,
    filter_id: Uuid,
    lock: &'static str,
) -> Result<Filter, Error> {
    let mut select = QueryBuilder::<Postgres>::new("SELECT ");
    select.push(COLUMNS).push(" FROM endpoint_filters WHERE status <> 'DELETED' AND filter_id = ");
    select.push_bind(filter_id).push(" AND tenant_id = ").push_bind(tenant.as_str().to_owned());
    select.push(" AND application_name = ").push_bind(application.as_str().to_owned()).push(lock);
    let row: Option<FilterRow> = select.build_query_as().fetch_optional(connection).await?;
    row.ok_or_else(|| Error::UnknownFilter(filter_id.to_string()))?.try_into()
}

fn check_tag(filter: &Filter, if_match: &rest::IfMatch) -> Result<(), Error> {
    let tag = filter.tag();
    if if_match.allows(&tag) { Ok(()) } else { Err(Error::Changed { tag }) }
}

fn stored_name(application: &str) -> Result<ApplicationName, Error> {
    ApplicationName::parse(application).map_err(|error| sqlx::Error::Decode(error.into()).into())
}
