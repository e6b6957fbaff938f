//! The filters of an application, compiled, and the order between those who change filters and those who change endpoints.
//!
//! Whoever changes an endpoint holds the application's lock shared until its commit, and reads the filters after it has
//! it. Whoever creates or changes a filter holds it alone until its commit. So, once a filter is committed, no transaction is
//! under way that does not know of it: every change of an endpoint is either visible to the matching that follows, or
//! made by somebody who evaluates the filter himself.
//!
//! Locks are taken in this order, so that nobody waits in a circle: the row of a filter, rows of endpoints, the
//! application's lock, counts.

use std::sync::{Arc, LazyLock};

use ids::{ApplicationName, TenantId};
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use sqlx::PgConnection;
use uuid::Uuid;

use super::definition::parse_sent;
use super::query::{Query, REGEX_COMPILED_BYTES_MAX};

/// Compiled filters that are kept by the process, in bytes as estimated; the least used go first.
const KEPT_BYTES_MAX: u64 = 64 * 1024 * 1024;
const ESTIMATED_SETS: usize = 256;
/// The estimate for a filter without its text and regular expressions.
const FILTER_BYTES: usize = 2 * 1024;

/// The filters of an application at one revision.
#[derive(Debug)]
pub(super) struct FilterSet {
    pub(super) filters: Vec<Compiled>,
    bytes: u64,
}

#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) filter_id: Uuid,
    pub(super) name: String,
    /// None: another version of the service has stored it, and this one cannot read it.
    pub(super) query: Option<Query>,
}

/// By revision. A revision names one state for ever, so that what is kept is never stale, and one cache serves all.
static SETS: LazyLock<Cache<Uuid, Arc<FilterSet>, Bytes>> = LazyLock::new(|| {
    let options = OptionsBuilder::new()
        // In several shards the largest set would fit into none.
        .shards(1)
        .estimated_items_capacity(ESTIMATED_SETS)
        .weight_capacity(KEPT_BYTES_MAX)
        .build();
    match options {
        Ok(options) => {
            Cache::with_options(options, Bytes, DefaultHashBuilder::default(), DefaultLifecycle::default())
        }
        // Only when a capacity is missing.
        Err(_) => Cache::with_weighter(ESTIMATED_SETS, KEPT_BYTES_MAX, Bytes),
    }
});

#[derive(Debug, Clone)]
struct Bytes;

impl Weighter<Uuid, Arc<FilterSet>> for Bytes {
    fn weight(&self, _: &Uuid, set: &Arc<FilterSet>) -> u64 {
        set.bytes
    }
}

/// For a change of an endpoint.
pub(super) async fn lock_shared(
    connection: &mut PgConnection,
    tenant: &TenantId,
    application: &ApplicationName,
) -> Result<(), sqlx::Error> {
    let lock = sqlx::query("SELECT pg_advisory_xact_lock_shared(hashtextextended($1, 0))");
    lock.bind(lock_name(tenant, application)).execute(connection).await.map(drop)
}

/// For a change of a filter.
pub(super) async fn lock(
    connection: &mut PgConnection,
    tenant: &TenantId,
    application: &ApplicationName,
) -> Result<(), sqlx::Error> {
    let lock = sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))");
    lock.bind(lock_name(tenant, application)).execute(connection).await.map(drop)
}

/// Advisory locks are those of the whole database.
fn lock_name(tenant: &TenantId, application: &ApplicationName) -> String {
    format!("epr/filters/{tenant}/{application}")
}

/// Gives the changed filters of an application a new revision; none when there is no filter any more. The lock must be held.
pub(super) async fn renew(
    connection: &mut PgConnection,
    tenant: &TenantId,
    application: &ApplicationName,
) -> Result<(), sqlx::Error> {
    let renew = sqlx::query(
        "INSERT INTO endpoint_filter_sets (tenant_id, application_name, revision)
         SELECT $1, $2, $3 WHERE EXISTS (
             SELECT FROM endpoint_filters
             WHERE tenant_id = $1 AND application_name = $2 AND status <> 'DELETED'
         )
         ON CONFLICT ON CONSTRAINT endpoint_filter_sets_pkey DO UPDATE SET revision = excluded.revision",
    );
    let renew = renew.bind(tenant.as_str()).bind(application.as_str()).bind(Uuid::new_v4());
    if renew.execute(&mut *connection).await?.rows_affected() == 0 {
        let forget =
            sqlx::query("DELETE FROM endpoint_filter_sets WHERE tenant_id = $1 AND application_name = $2");
        forget.bind(tenant.as_str()).bind(application.as_str()).execute(connection).await?;
    }
    Ok(())
}

/// The filters at a revision. The lock must be held, shared or alone, so that it is still that revision.
pub(super) async fn filters(
    connection: &mut PgConnection,
    tenant: &TenantId,
    application: &ApplicationName,
    revision: Uuid,
) -> Result<Arc<FilterSet>, sqlx::Error> {
    SETS.get_or_insert_async(&revision, async { load(connection, tenant, application).await.map(Arc::new) })
        .await
}

async fn load(
    connection: &mut PgConnection,
    tenant: &TenantId,
    application: &ApplicationName,
) -> Result<FilterSet, sqlx::Error> {
    let rows: Vec<(Uuid, String, String)> = sqlx::query_as(
        "SELECT filter_id, name, mongo_query::text FROM endpoint_filters
         WHERE tenant_id = $1 AND application_name = $2 AND status <> 'DELETED'",
    )
    .bind(tenant.as_str())
    .bind(application.as_str())
    .fetch_all(connection)
    .await?;
    let mut bytes = 0;
    let mut filters = Vec::with_capacity(rows.len());
    for (filter_id, name, sent) in rows {
        let query = match parse_sent(&sent) {
            Ok(query) => Some(query),
            Err(error) => {
                tracing::error!(%error, %filter_id, "a filter cannot be read; endpoints keep what they match of it");
                None
            }
        };
        let regexes = query.as_ref().map_or(0, Query::regexes);
        bytes += FILTER_BYTES + 4 * sent.len() + regexes * REGEX_COMPILED_BYTES_MAX;
        filters.push(Compiled { filter_id, name, query });
    }
    Ok(FilterSet { filters, bytes: u64::try_from(bytes).unwrap_or(u64::MAX).max(1) })
}
