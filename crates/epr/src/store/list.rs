//! Lists of endpoints.

use ids::{AppVersionName, ApplicationName, EndpointId, TenantId};
use sqlx::{Postgres, QueryBuilder};

use super::{EndpointRow, Store};
use crate::domain::Endpoint;
use crate::error::Error;

/// Which endpoints to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) application: Option<ApplicationName>,
    pub(crate) version: Option<AppVersionName>,
    /// Empty: any.
    pub(crate) endpoint_ids: Vec<EndpointId>,
    pub(crate) with_metadata: bool,
}

impl Store {
    /// A page of the tenant's endpoints, oldest first, and how many there are in all.
    pub(crate) async fn endpoints(
        &self,
        tenant: &TenantId,
        filter: &Filter,
        offset: i64,
        limit: i64,
    ) -> Result<(i64, Vec<Endpoint>), Error> {
        let mut count = QueryBuilder::<Postgres>::new("SELECT count(*) FROM endpoints");
        restrict(&mut count, tenant, filter);
        let total: i64 = count.build_query_scalar().fetch_one(&self.pool).await?;

        let mut select = QueryBuilder::<Postgres>::new(
            "SELECT endpoint_id, app_version_name, app_version_registered_at, created_at, ",
        );
        select.push(if filter.with_metadata {
            "metadata, metadata_updated_at FROM endpoints"
        } else {
            "NULL::jsonb AS metadata, NULL::timestamptz AS metadata_updated_at FROM endpoints"
        });
        restrict(&mut select, tenant, filter);
        select.push(" ORDER BY created_at, endpoint_id OFFSET ").push_bind(offset);
        select.push(" LIMIT ").push_bind(limit);
        let rows: Vec<EndpointRow> = select.build_query_as().fetch_all(&self.pool).await?;
        Ok((total, rows.into_iter().map(Endpoint::from).collect()))
    }
}

/// The conditions as they are asked for and no others, so that the planner finds the index that belongs to
/// them.
fn restrict(query: &mut QueryBuilder<Postgres>, tenant: &TenantId, filter: &Filter) {
    query.push(" WHERE registered_at IS NOT NULL AND tenant_id = ").push_bind(tenant.to_string());
    if let Some(application) = &filter.application {
        query.push(" AND application_name = ").push_bind(application.to_string());
    }
    if let Some(version) = &filter.version {
        query.push(" AND app_version_name = ").push_bind(version.to_string());
    }
    if !filter.endpoint_ids.is_empty() {
        let ids: Vec<String> = filter.endpoint_ids.iter().map(ToString::to_string).collect();
        query.push(" AND endpoint_id = ANY(").push_bind(ids).push(")");
    }
}
