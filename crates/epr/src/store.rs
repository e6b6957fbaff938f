//! The service's tables.

mod batches;
mod list;
mod metadata;
mod relations;
mod removal;
mod reservations;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use ids::{AppVersionName, ApplicationName, EndpointId, TenantId};
use serde_json::{Map, Value};
use sqlx::types::Json;
use sqlx::{FromRow, PgPool};

pub(crate) use batches::{Item, ItemKey, MadeItem, NewItem, NewTask, Outcome, Task};
pub(crate) use metadata::{Locked, State, Written};
pub(crate) use removal::{Doomed, Marked, Purge, PurgeOrder};
pub(crate) use reservations::Reservation;

use crate::domain::{Endpoint, EndpointVersion};
use crate::error::Error;

/// The migrations of the schema.
pub(crate) static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// Endpoints in PostgreSQL. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Store {
    pool: PgPool,
}

#[derive(FromRow)]
struct EndpointRow {
    endpoint_id: String,
    app_version_name: String,
    app_version_registered_at: DateTime<Utc>,
    created_at: DateTime<Utc>,
    metadata: Option<Json<Map<String, Value>>>,
    metadata_updated_at: Option<DateTime<Utc>>,
    endpoint_group: Option<String>,
}

impl From<EndpointRow> for Endpoint {
    fn from(row: EndpointRow) -> Self {
        let version =
            EndpointVersion { name: row.app_version_name, registered_date: row.app_version_registered_at };
        Self {
            endpoint_id: row.endpoint_id,
            created_date: row.created_at,
            app_version: version,
            metadata: row.metadata.map(|Json(metadata)| metadata),
            metadata_updated_date: row.metadata_updated_at,
            filters: None,
            group: row.endpoint_group,
        }
    }
}

impl Store {
    pub(crate) fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// The pool, for transactions over several tables.
    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// One endpoint of the tenant.
    pub(crate) async fn endpoint(
        &self,
        tenant: &TenantId,
        endpoint_id: &EndpointId,
        with_metadata: bool,
    ) -> Result<Endpoint, Error> {
        let row: Option<EndpointRow> = sqlx::query_as(
            "SELECT endpoint_id, app_version_name, app_version_registered_at, created_at, endpoint_group,
                 CASE WHEN $3 THEN metadata END AS metadata,
                 CASE WHEN $3 THEN metadata_updated_at END AS metadata_updated_at
             FROM endpoints WHERE endpoint_id = $1 AND tenant_id = $2 AND registered_at IS NOT NULL",
        )
        .bind(endpoint_id.as_str())
        .bind(tenant.as_str())
        .bind(with_metadata)
        .fetch_optional(&self.pool)
        .await?;
        row.map(Endpoint::from).ok_or_else(|| Error::UnknownEndpoint(endpoint_id.clone()))
    }

    /// Where an endpoint of the tenant belongs.
    pub(crate) async fn belonging(
        &self,
        tenant: &TenantId,
        endpoint_id: &EndpointId,
    ) -> Result<Option<(ApplicationName, AppVersionName)>, Error> {
        let names: Option<(String, String)> = sqlx::query_as(
            "SELECT application_name, app_version_name FROM endpoints
             WHERE endpoint_id = $1 AND tenant_id = $2 AND registered_at IS NOT NULL",
        )
        .bind(endpoint_id.as_str())
        .bind(tenant.as_str())
        .fetch_optional(&self.pool)
        .await?;
        let parse = |(application, version): (String, String)| {
            Ok((ApplicationName::parse(&application)?, AppVersionName::parse(&version)?))
        };
        names.map(parse).transpose()
    }

    /// The applications of those of the endpoints that the tenant has, deleted ones that are remembered included: who
    /// may delete an endpoint may also ask again whether it is gone.
    pub(crate) async fn applications_of(
        &self,
        tenant: &TenantId,
        endpoint_ids: &[EndpointId],
    ) -> Result<BTreeMap<EndpointId, ApplicationName>, Error> {
        let ids: Vec<&str> = endpoint_ids.iter().map(EndpointId::as_str).collect();
        let rows: Vec<(String, String)> = sqlx::query_as(
            "SELECT endpoint_id, application_name FROM endpoints
             WHERE endpoint_id = ANY ($1) AND tenant_id = $2 AND (registered_at IS NOT NULL OR deleted_at IS NOT NULL)
             UNION ALL
             SELECT endpoint_id, application_name FROM deleted_endpoints
             WHERE endpoint_id = ANY ($1) AND tenant_id = $2",
        )
        .bind(ids)
        .bind(tenant.as_str())
        .fetch_all(&self.pool)
        .await?;
        let parse = |(endpoint_id, application): (String, String)| {
            Ok((EndpointId::parse(&endpoint_id)?, ApplicationName::parse(&application)?))
        };
        rows.into_iter().map(parse).collect()
    }

    /// The application version of each of the endpoints that there are, of any tenant.
    pub(crate) async fn versions_of(&self, endpoint_ids: &[&str]) -> Result<Vec<(String, String)>, Error> {
        let endpoint_ids: Vec<&str> = endpoint_ids
            .iter()
            .copied()
            .filter(|endpoint_id| EndpointId::parse(endpoint_id).is_ok())
            .collect();
        let rows = sqlx::query_as(
            "SELECT endpoint_id, app_version_name FROM endpoints
             WHERE endpoint_id = ANY ($1) AND registered_at IS NOT NULL",
        );
        Ok(rows.bind(endpoint_ids).fetch_all(&self.pool).await?)
    }
}
