//! How an endpoint's row comes to be.

use std::time::Duration;

use ids::{EndpointId, TenantId};
use sqlx::types::Json;
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use super::batches::{MadeItem, item_made};
use super::relations::link;
use super::{EndpointRow, Store};
use crate::domain::{Endpoint, EndpointSnapshot, NewEndpoint, Relation};
use crate::error::Error;
use crate::filters;

/// An id that is held for one registration until the endpoint has its token.
#[derive(Debug)]
pub(crate) struct Reservation {
    endpoint_id: EndpointId,
    registration_id: Uuid,
    /// Whether no earlier registration had the id: then no token can lead to it yet.
    pub(crate) fresh: bool,
}

impl Store {
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
        // That an endpoint of this id is gone is announced no more while the id is being registered anew: whoever heard
        // it late would delete what is the new endpoint's. xmax is 0 in a row that was inserted, not updated.
        let fresh: Option<bool> = sqlx::query_scalar(
            "WITH announced AS (
                 UPDATE deleted_endpoints SET announce_at = now() + make_interval(secs => $7 + 60)
                 WHERE endpoint_id = $1 AND announce_at IS NOT NULL
             )
             INSERT INTO endpoints AS held (endpoint_id, tenant_id, application_name, app_version_name,
                 app_version_registered_at, metadata, metadata_updated_at, created_at, registration_id, reserved_until,
                 endpoint_group)
             VALUES ($1, $2, $3, $4, now(), $5, CASE WHEN $5 <> '{}'::jsonb THEN now() END, now(), $6,
                 now() + make_interval(secs => $7), $8)
             ON CONFLICT ON CONSTRAINT endpoints_pkey DO UPDATE SET
                 app_version_name = excluded.app_version_name,
                 app_version_registered_at = excluded.app_version_registered_at,
                 metadata = excluded.metadata,
                 metadata_updated_at = excluded.metadata_updated_at,
                 created_at = excluded.created_at,
                 registration_id = excluded.registration_id,
                 reserved_until = excluded.reserved_until,
                 endpoint_group = excluded.endpoint_group
             WHERE held.registered_at IS NULL AND held.deleted_at IS NULL AND held.reserved_until < now()
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
        .bind(new.group.as_deref())
        .fetch_optional(&self.pool)
        .await?;
        match fresh {
            Some(fresh) => Ok(Reservation { endpoint_id: new.endpoint_id.clone(), registration_id, fresh }),
            None => Err(self.why_not_reserved(tenant, new).await?),
        }
    }

    async fn why_not_reserved(&self, tenant: &TenantId, new: &NewEndpoint) -> Result<Error, Error> {
        let held: Option<(bool, bool)> = sqlx::query_as(
            "SELECT registered_at IS NULL AND tenant_id = $2 AND application_name = $3,
                 deleted_at IS NOT NULL AND tenant_id = $2
             FROM endpoints WHERE endpoint_id = $1",
        )
        .bind(new.endpoint_id.as_str())
        .bind(tenant.as_str())
        .bind(new.application.as_str())
        .fetch_optional(&self.pool)
        .await?;
        let endpoint_id = new.endpoint_id.clone();
        Ok(match held {
            Some((_, true)) => Error::Deleting(endpoint_id),
            Some((false, false)) => Error::EndpointExists(endpoint_id),
            // Gone meanwhile: the registration that held it failed.
            Some((true, false)) | None => Error::Reserved(endpoint_id),
        })
    }

    /// Makes the endpoint visible, with its relations and the filters that it matches. `None`: another registration has
    /// taken the id over.
    pub(crate) async fn confirm(
        &self,
        reservation: &Reservation,
        tenant: &TenantId,
        new: &NewEndpoint,
        relations_max: i64,
        made: Option<&MadeItem>,
    ) -> Result<Option<(Endpoint, filters::Changes)>, Error> {
        let mut connection = self.pool.acquire().await?;
        let mut transaction = connection.begin().await?;
        let Some(endpoint) = make_visible(&mut transaction, reservation).await? else { return Ok(None) };
        let relations: Vec<Relation> =
            new.relations.iter().map(|relation| relation.of(&new.endpoint_id)).collect();
        link(&mut transaction, tenant, &relations, relations_max).await?;
        let stored = endpoint.metadata.clone().unwrap_or_default();
        let snapshot = EndpointSnapshot {
            endpoint_id: &new.endpoint_id,
            tenant,
            application: &new.application,
            app_version: &new.version,
            metadata: &stored,
        };
        let changes = filters::reevaluate(&mut transaction, &snapshot).await?;
        if let Some(made) = made {
            item_made(&mut transaction, made).await?;
        }
        transaction.commit().await?;
        Ok(Some((endpoint, changes)))
    }

    /// Lets the same registration be tried again at once; the id stays with its tenant and application.
    pub(crate) async fn lapse(&self, reservation: &Reservation) -> Result<(), Error> {
        sqlx::query(
            "UPDATE endpoints SET reserved_until = '-infinity'
             WHERE endpoint_id = $1 AND registration_id = $2 AND registered_at IS NULL AND deleted_at IS NULL",
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
            "DELETE FROM endpoints
             WHERE endpoint_id = $1 AND registration_id = $2 AND registered_at IS NULL AND deleted_at IS NULL",
        )
        .bind(reservation.endpoint_id.as_str())
        .bind(reservation.registration_id)
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

async fn make_visible(
    connection: &mut PgConnection,
    reservation: &Reservation,
) -> Result<Option<Endpoint>, Error> {
    let row: Option<EndpointRow> = sqlx::query_as(
        "UPDATE endpoints SET registered_at = now()
         WHERE endpoint_id = $1 AND registration_id = $2 AND registered_at IS NULL AND deleted_at IS NULL
         RETURNING endpoint_id, app_version_name, app_version_registered_at, created_at, metadata,
             metadata_updated_at, endpoint_group",
    )
    .bind(reservation.endpoint_id.as_str())
    .bind(reservation.registration_id)
    .fetch_optional(&mut *connection)
    .await?;
    if row.is_some() {
        // It is the new endpoint that has the id now.
        let forget = sqlx::query("DELETE FROM deleted_endpoints WHERE endpoint_id = $1");
        forget.bind(reservation.endpoint_id.as_str()).execute(connection).await?;
    }
    Ok(row.map(Endpoint::from))
}
