//! Metadata and application versions of endpoints.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use ids::{AppVersionName, ApplicationName, EndpointId, TenantId};
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection};

use super::Store;
use crate::domain::EndpointSnapshot;
use crate::error::Error;
use crate::metadata::Metadata;

/// Names listed for one application.
const KEYS_LISTED_MAX: i64 = 10_000;

/// An endpoint's metadata, and what names this state of them.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) metadata: Metadata,
    /// The ETag.
    pub(crate) tag: String,
    pub(crate) app_version: String,
}

/// An endpoint that nobody else changes until the transaction ends.
#[derive(Debug)]
pub(crate) struct Locked {
    pub(crate) endpoint_id: EndpointId,
    pub(crate) tenant: TenantId,
    pub(crate) application: ApplicationName,
    pub(crate) app_version: AppVersionName,
    pub(crate) metadata: Metadata,
    pub(crate) tag: String,
}

/// Metadata as they are stored.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) metadata: Metadata,
    pub(crate) tag: String,
    pub(crate) updated_at: DateTime<Utc>,
}

#[derive(FromRow)]
struct LockedRow {
    tenant_id: String,
    application_name: String,
    app_version_name: String,
    metadata: Json<Metadata>,
    metadata_version: i64,
}

impl Locked {
    /// Locks an endpoint; of any tenant, if none is given.
    pub(crate) async fn of(
        connection: &mut PgConnection,
        tenant: Option<&TenantId>,
        endpoint_id: &EndpointId,
    ) -> Result<Self, Error> {
        let row: Option<LockedRow> = sqlx::query_as(
            "SELECT tenant_id, application_name, app_version_name, metadata, metadata_version FROM endpoints
             WHERE endpoint_id = $1 AND ($2::text IS NULL OR tenant_id = $2) AND registered_at IS NOT NULL
             FOR NO KEY UPDATE",
        )
        .bind(endpoint_id.as_str())
        .bind(tenant.map(TenantId::as_str))
        .fetch_optional(connection)
        .await?;
        let row = row.ok_or_else(|| Error::UnknownEndpoint(endpoint_id.clone()))?;
        Ok(Self {
            endpoint_id: endpoint_id.clone(),
            tenant: TenantId::parse(&row.tenant_id)?,
            application: ApplicationName::parse(&row.application_name)?,
            app_version: AppVersionName::parse(&row.app_version_name)?,
            metadata: row.metadata.0,
            tag: row.metadata_version.to_string(),
        })
    }

    /// What filters are evaluated against.
    pub(crate) fn snapshot(&self) -> EndpointSnapshot<'_> {
        EndpointSnapshot {
            endpoint_id: &self.endpoint_id,
            tenant: &self.tenant,
            application: &self.application,
            app_version: &self.app_version,
            metadata: &self.metadata,
        }
    }

    /// Stores metadata. `None`: they are what is stored already.
    pub(crate) async fn write(
        &self,
        connection: &mut PgConnection,
        metadata: &Metadata,
    ) -> Result<Option<Written>, Error> {
        // The clock is read while the row is locked, so that the times of one endpoint's changes are in their order, and
        // also differ in milliseconds, which events have, and if the clock goes back.
        let row: Option<(Json<Metadata>, i64, DateTime<Utc>)> = sqlx::query_as(
            "UPDATE endpoints SET metadata = $2, metadata_version = nextval('metadata_versions'),
                 metadata_updated_at = greatest(clock_timestamp(), metadata_updated_at + interval '1 millisecond')
             WHERE endpoint_id = $1 AND metadata IS DISTINCT FROM $2
             RETURNING metadata, metadata_version, metadata_updated_at",
        )
        .bind(self.endpoint_id.as_str())
        .bind(Json(metadata))
        .fetch_optional(connection)
        .await?;
        Ok(row.map(|(Json(metadata), version, updated_at)| Written {
            metadata,
            tag: version.to_string(),
            updated_at,
        }))
    }

    /// Moves the endpoint to another version of its application.
    pub(crate) async fn move_to(
        &self,
        connection: &mut PgConnection,
        version: &AppVersionName,
    ) -> Result<DateTime<Utc>, Error> {
        let moved = sqlx::query_scalar(
            "UPDATE endpoints SET app_version_name = $2, app_version_registered_at = clock_timestamp()
             WHERE endpoint_id = $1 RETURNING app_version_registered_at",
        );
        Ok(moved.bind(self.endpoint_id.as_str()).bind(version.as_str()).fetch_one(connection).await?)
    }
}

impl Store {
    /// An endpoint's metadata; of any tenant, if none is given.
    pub(crate) async fn metadata(
        &self,
        tenant: Option<&TenantId>,
        endpoint_id: &EndpointId,
    ) -> Result<State, Error> {
        let row: Option<(Json<Metadata>, i64, String)> = sqlx::query_as(
            "SELECT metadata, metadata_version, app_version_name FROM endpoints
             WHERE endpoint_id = $1 AND ($2::text IS NULL OR tenant_id = $2) AND registered_at IS NOT NULL",
        )
        .bind(endpoint_id.as_str())
        .bind(tenant.map(TenantId::as_str))
        .fetch_optional(&self.pool)
        .await?;
        let found = row.map(|(Json(metadata), version, app_version)| State {
            metadata,
            tag: version.to_string(),
            app_version,
        });
        found.ok_or_else(|| Error::UnknownEndpoint(endpoint_id.clone()))
    }

    /// The metadata keys that endpoints of an application have, by application version; 10000 of them at most.
    pub(crate) async fn metadata_keys(
        &self,
        tenant: &TenantId,
        application: &ApplicationName,
    ) -> Result<BTreeMap<String, Vec<String>>, Error> {
        let rows: Vec<(String, String)> = sqlx::query_as(
            "SELECT app_version_name, key FROM metadata_keys WHERE tenant_id = $1 AND application_name = $2
             GROUP BY app_version_name, key HAVING sum(endpoints) > 0 ORDER BY app_version_name, key LIMIT $3",
        )
        .bind(tenant.as_str())
        .bind(application.as_str())
        .bind(KEYS_LISTED_MAX)
        .fetch_all(&self.pool)
        .await?;
        let mut keys = BTreeMap::<String, Vec<String>>::new();
        for (version, key) in rows {
            keys.entry(version).or_default().push(key);
        }
        Ok(keys)
    }
}
