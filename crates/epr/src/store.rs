//! The service's table.

mod list;

use std::time::Duration;

use chrono::{DateTime, Utc};
use ids::{AppVersionName, ApplicationName, EndpointId, TenantId};
use serde_json::{Map, Value};
use sqlx::types::Json;
use sqlx::{FromRow, PgPool};
use uuid::Uuid;

pub(crate) use list::Filter;

use crate::domain::{Endpoint, EndpointVersion, NewEndpoint};
use crate::error::Error;

/// The migrations of the schema.
pub(crate) static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// Endpoints in PostgreSQL. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Store {
    pool: PgPool,
}

/// An id that is held for one registration until the endpoint has its token.
#[derive(Debug)]
pub(crate) struct Reservation {
    endpoint_id: EndpointId,
    registration_id: Uuid,
    /// Whether no earlier registration had the id: then no token can lead to it yet.
    pub(crate) fresh: bool,
}

#[derive(FromRow)]
struct EndpointRow {
    endpoint_id: String,
    app_version_name: String,
    app_version_registered_at: DateTime<Utc>,
    created_at: DateTime<Utc>,
    metadata: Option<Json<Map<String, Value>>>,
    metadata_updated_at: Option<DateTime<Utc>>,
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
        }
    }
}

impl Store {
    pub(crate) fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Reserves the id of an endpoint for its registration.
    ///
    /// A reservation that was never confirmed (the process died, or no token came) and whose time is over may
    /// be taken over, but only for the same tenant and application: a token for it may have been made, and it
    /// must not lead to another's endpoint.
    pub(crate) async fn reserve(
        &self,
        tenant: &TenantId,
        new: &NewEndpoint,
        hold: Duration,
    ) -> Result<Reservation, Error> {
        let registration_id = Uuid::new_v4();
        // xmax is 0 in a row that was inserted, not updated.
        let fresh: Option<bool> = sqlx::query_scalar(
            "INSERT INTO endpoints AS held (endpoint_id, tenant_id, application_name, app_version_name,
                 app_version_registered_at, metadata, metadata_updated_at, created_at, registration_id, reserved_until)
             VALUES ($1, $2, $3, $4, now(), $5, CASE WHEN $5 <> '{}'::jsonb THEN now() END, now(), $6,
                 now() + make_interval(secs => $7))
             ON CONFLICT ON CONSTRAINT endpoints_pkey DO UPDATE SET
                 app_version_name = excluded.app_version_name,
                 app_version_registered_at = excluded.app_version_registered_at,
                 metadata = excluded.metadata,
                 metadata_updated_at = excluded.metadata_updated_at,
                 created_at = excluded.created_at,
                 registration_id = excluded.registration_id,
                 reserved_until = excluded.reserved_until
             WHERE held.registered_at IS NULL AND held.reserved_until < now()
                 AND held.tenant_id = excluded.tenant_id AND held.application_name = excluded.application_name
             RETURNING xmax = 0",
        )
        .bind(new.endpoint_id.as_str())
        .bind(tenant.as_str())
        .bind(new.application.as_str())
        .bind(new.version.as_str())
        .bind(Json(&new.metadata))
        .bind(registration_id)
        .bind(hold.as_secs_f64())
        .fetch_optional(&self.pool)
        .await?;
        match fresh {
            Some(fresh) => Ok(Reservation { endpoint_id: new.endpoint_id.clone(), registration_id, fresh }),
            None => Err(self.why_not_reserved(tenant, new).await?),
        }
    }

    async fn why_not_reserved(&self, tenant: &TenantId, new: &NewEndpoint) -> Result<Error, Error> {
        let passing: Option<bool> = sqlx::query_scalar(
            "SELECT registered_at IS NULL AND tenant_id = $2 AND application_name = $3 FROM endpoints
             WHERE endpoint_id = $1",
        )
        .bind(new.endpoint_id.as_str())
        .bind(tenant.as_str())
        .bind(new.application.as_str())
        .fetch_optional(&self.pool)
        .await?;
        // Gone meanwhile: the registration that held it failed.
        let passing = passing.unwrap_or(true);
        let endpoint_id = new.endpoint_id.clone();
        Ok(if passing { Error::Reserved(endpoint_id) } else { Error::EndpointExists(endpoint_id) })
    }

    /// Makes the endpoint visible. `None`: another registration has taken the id over.
    pub(crate) async fn confirm(&self, reservation: &Reservation) -> Result<Option<Endpoint>, Error> {
        let row: Option<EndpointRow> = sqlx::query_as(
            "UPDATE endpoints SET registered_at = now()
             WHERE endpoint_id = $1 AND registration_id = $2 AND registered_at IS NULL
             RETURNING endpoint_id, app_version_name, app_version_registered_at, created_at, metadata,
                 metadata_updated_at",
        )
        .bind(reservation.endpoint_id.as_str())
        .bind(reservation.registration_id)
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(Endpoint::from))
    }

    /// Lets the same registration be tried again at once; the id stays with its tenant and application.
    pub(crate) async fn lapse(&self, reservation: &Reservation) -> Result<(), Error> {
        sqlx::query(
            "UPDATE endpoints SET reserved_until = '-infinity'
             WHERE endpoint_id = $1 AND registration_id = $2 AND registered_at IS NULL",
        )
        .bind(reservation.endpoint_id.as_str())
        .bind(reservation.registration_id)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Gives the id back.
    pub(crate) async fn release(&self, reservation: &Reservation) -> Result<(), Error> {
        sqlx::query(
            "DELETE FROM endpoints WHERE endpoint_id = $1 AND registration_id = $2 AND registered_at IS NULL",
        )
        .bind(reservation.endpoint_id.as_str())
        .bind(reservation.registration_id)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// One endpoint of the tenant.
    pub(crate) async fn endpoint(
        &self,
        tenant: &TenantId,
        endpoint_id: &EndpointId,
        with_metadata: bool,
    ) -> Result<Endpoint, Error> {
        let row: Option<EndpointRow> = sqlx::query_as(
            "SELECT endpoint_id, app_version_name, app_version_registered_at, created_at,
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
}
