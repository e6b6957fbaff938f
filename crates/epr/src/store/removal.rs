//! How an endpoint's row goes, and what is remembered of it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use ids::{AppVersionName, ApplicationName, EndpointId, TenantId};
use sqlx::{Connection as _, FromRow, PgConnection, Postgres, QueryBuilder};

use super::Store;
use crate::error::Error;
use crate::filters;

/// When, after the deletion, it is announced again.
const ANNOUNCE_AFTER: [&str; 4] = ["1 minute", "10 minutes", "1 hour", "1 day"];
/// How long deleted endpoints are remembered.
const REMEMBERED: &str = "30 days";

/// An endpoint that nobody sees any more and that is not gone yet, or is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Doomed {
    pub(crate) endpoint_id: EndpointId,
    pub(crate) tenant: TenantId,
    pub(crate) application: ApplicationName,
    pub(crate) app_version: AppVersionName,
    pub(crate) deleted_at: DateTime<Utc>,
    /// Until when nobody else goes on with the deletion. Whoever has this time has the deletion in hand.
    pub(crate) due_at: DateTime<Utc>,
}

/// What the order to delete an endpoint found.
pub(crate) enum Marked {
    /// It is hidden now, or was before.
    Hidden(Doomed, Option<filters::Changes>),
    /// It is gone already.
    Gone,
}

/// An application whose endpoints go, or a tenant.
#[derive(Debug, Clone)]
pub(crate) struct Purge {
    pub(crate) tenant: TenantId,
    /// None: all of the tenant.
    pub(crate) application: Option<ApplicationName>,
}

/// An order to delete the endpoints of what is gone.
#[derive(Debug, Clone)]
pub(crate) struct PurgeOrder {
    pub(crate) purge: Purge,
    pub(crate) requested_at: DateTime<Utc>,
}

#[derive(FromRow)]
struct DoomedRow {
    endpoint_id: String,
    tenant_id: String,
    application_name: String,
    app_version_name: String,
    deleted_at: DateTime<Utc>,
    due_at: DateTime<Utc>,
}

impl TryFrom<DoomedRow> for Doomed {
    type Error = Error;

    fn try_from(row: DoomedRow) -> Result<Self, Error> {
        Ok(Self {
            endpoint_id: EndpointId::parse(&row.endpoint_id)?,
            tenant: TenantId::parse(&row.tenant_id)?,
            application: ApplicationName::parse(&row.application_name)?,
            app_version: AppVersionName::parse(&row.app_version_name)?,
            deleted_at: row.deleted_at,
            due_at: row.due_at,
        })
    }
}

impl Store {
    /// Hides an endpoint for ever, with its relations and matches. If whoever asks does not go on with the deletion,
    /// somebody else does after `due`. Refused while somebody goes on with it: what `cm` is asked twice at once, it might
    /// do the second time when the id is another endpoint's already.
    pub(crate) async fn mark(
        &self,
        tenant: &TenantId,
        endpoint_id: &EndpointId,
        due: Duration,
    ) -> Result<Marked, Error> {
        let mut connection = self.pool.acquire().await?;
        let mut transaction = connection.begin().await?;
        let row: Option<(bool, bool)> = sqlx::query_as(
            "SELECT deleted_at IS NULL, coalesce(deletion_due_at > now(), false) FROM endpoints
             WHERE endpoint_id = $1 AND tenant_id = $2 AND (registered_at IS NOT NULL OR deleted_at IS NOT NULL)
             FOR UPDATE",
        )
        .bind(endpoint_id.as_str())
        .bind(tenant.as_str())
        .fetch_optional(&mut *transaction)
        .await?;
        let Some((visible, held)) = row else {
            drop(transaction);
            return if is_remembered(&mut connection, tenant, endpoint_id).await? {
                Ok(Marked::Gone)
            } else {
                Err(Error::UnknownEndpoint(endpoint_id.clone()))
            };
        };
        if held {
            return Err(Error::Deleting(endpoint_id.clone()));
        }
        // The version of the service before this one takes over no reservation without end.
        let row: DoomedRow = sqlx::query_as(
            "UPDATE endpoints SET registered_at = NULL, reserved_until = 'infinity',
                 deleted_at = coalesce(deleted_at, clock_timestamp()),
                 deletion_due_at = now() + make_interval(secs => $2)
             WHERE endpoint_id = $1
             RETURNING endpoint_id, tenant_id, application_name, app_version_name, deleted_at,
                 deletion_due_at AS due_at",
        )
        .bind(endpoint_id.as_str())
        .bind(due.as_secs_f64())
        .fetch_one(&mut *transaction)
        .await?;
        let mut changes = None;
        if visible {
            forget_relations(&mut transaction, endpoint_id).await?;
            changes = Some(filters::unregister(&mut transaction, endpoint_id).await?);
        }
        transaction.commit().await?;
        Ok(Marked::Hidden(Doomed::try_from(row)?, changes))
    }

    /// Keeps a deletion in hand for longer, or lets others go on with it after that time. False: somebody else does.
    pub(crate) async fn hold(&self, doomed: &mut Doomed, hold: Duration) -> Result<bool, Error> {
        let due_at: Option<DateTime<Utc>> = sqlx::query_scalar(
            "UPDATE endpoints SET deletion_due_at = now() + make_interval(secs => $4)
             WHERE endpoint_id = $1 AND deleted_at = $2 AND deletion_due_at = $3 RETURNING deletion_due_at",
        )
        .bind(doomed.endpoint_id.as_str())
        .bind(doomed.deleted_at)
        .bind(doomed.due_at)
        .bind(hold.as_secs_f64())
        .fetch_optional(&self.pool)
        .await?;
        doomed.due_at = due_at.unwrap_or(doomed.due_at);
        Ok(due_at.is_some())
    }

    /// Removes a hidden endpoint. `None`: somebody else has done it, and the id may be another endpoint's since, which
    /// may even be going itself: each deletion has a time of its own.
    pub(crate) async fn remove(&self, doomed: &Doomed) -> Result<Option<()>, Error> {
        let mut connection = self.pool.acquire().await?;
        let mut transaction = connection.begin().await?;
        let removed = sqlx::query("DELETE FROM endpoints WHERE endpoint_id = $1 AND deleted_at = $2")
            .bind(doomed.endpoint_id.as_str())
            .bind(doomed.deleted_at)
            .execute(&mut *transaction)
            .await?;
        if removed.rows_affected() == 0 {
            return Ok(None);
        }
        sqlx::query(
            "INSERT INTO deleted_endpoints (endpoint_id, tenant_id, application_name, app_version_name, deleted_at,
                 announce_at)
             VALUES ($1, $2, $3, $4, $5, now() + $6::text::interval)
             ON CONFLICT ON CONSTRAINT deleted_endpoints_pkey DO UPDATE SET
                 tenant_id = excluded.tenant_id, application_name = excluded.application_name,
                 app_version_name = excluded.app_version_name, deleted_at = excluded.deleted_at,
                 announce_at = excluded.announce_at",
        )
        .bind(doomed.endpoint_id.as_str())
        .bind(doomed.tenant.as_str())
        .bind(doomed.application.as_str())
        .bind(doomed.app_version.as_str())
        .bind(doomed.deleted_at)
        .bind(ANNOUNCE_AFTER[0])
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(Some(()))
    }

    /// Hidden endpoints that nobody has gone on with, taken over for a while.
    pub(crate) async fn overdue(&self, most: i64, hold: Duration) -> Result<Vec<Doomed>, Error> {
        let rows: Vec<DoomedRow> = sqlx::query_as(
            "UPDATE endpoints SET deletion_due_at = now() + make_interval(secs => $2)
             WHERE endpoint_id IN (
                 SELECT endpoint_id FROM endpoints WHERE deleted_at IS NOT NULL AND deletion_due_at <= now()
                 ORDER BY deletion_due_at LIMIT $1 FOR UPDATE SKIP LOCKED
             )
             RETURNING endpoint_id, tenant_id, application_name, app_version_name, deleted_at,
                 deletion_due_at AS due_at",
        )
        .bind(most)
        .bind(hold.as_secs_f64())
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(Doomed::try_from).collect()
    }

    /// Has the endpoints of an application, or of all of a tenant, deleted.
    pub(crate) async fn order_purge(&self, purge: &Purge) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO purges (tenant_id, application_name) VALUES ($1, $2)
             ON CONFLICT ON CONSTRAINT purges_pkey DO UPDATE SET requested_at = excluded.requested_at",
        )
        .bind(purge.tenant.as_str())
        .bind(purge.application.as_ref().map_or("", ApplicationName::as_str))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The orders that are not done, oldest first; a hundred at most.
    pub(crate) async fn purges(&self) -> Result<Vec<PurgeOrder>, Error> {
        let rows: Vec<(String, String, DateTime<Utc>)> = sqlx::query_as(
            "SELECT tenant_id, application_name, requested_at FROM purges ORDER BY requested_at LIMIT 100",
        )
        .fetch_all(&self.pool)
        .await?;
        let order = |(tenant, application, requested_at): (String, String, DateTime<Utc>)| {
            let application =
                if application.is_empty() { None } else { Some(ApplicationName::parse(&application)?) };
            Ok(PurgeOrder { purge: Purge { tenant: TenantId::parse(&tenant)?, application }, requested_at })
        };
        rows.into_iter().map(order).collect()
    }

    /// Some of the endpoints that an order still has to delete.
    pub(crate) async fn to_purge(&self, order: &PurgeOrder, most: i64) -> Result<Vec<EndpointId>, Error> {
        let mut select = QueryBuilder::<Postgres>::new(
            "SELECT endpoint_id FROM endpoints WHERE registered_at IS NOT NULL AND tenant_id = ",
        );
        select.push_bind(order.purge.tenant.as_str());
        if let Some(application) = &order.purge.application {
            select.push(" AND application_name = ").push_bind(application.as_str());
        }
        select.push(" AND created_at <= ").push_bind(order.requested_at);
        select.push(" ORDER BY created_at, endpoint_id LIMIT ").push_bind(most);
        let ids: Vec<String> = select.build_query_scalar().fetch_all(&self.pool).await?;
        ids.iter().map(|id| Ok(EndpointId::parse(id)?)).collect()
    }

    /// Hides ids that an order has to delete and that were reserved by registrations which never came to their end: their
    /// tokens go too, and they are free for others again. Returns how many.
    pub(crate) async fn hide_abandoned(&self, order: &PurgeOrder, most: i64) -> Result<u64, Error> {
        let mut update = QueryBuilder::<Postgres>::new(
            "UPDATE endpoints SET reserved_until = 'infinity', deleted_at = clock_timestamp(), deletion_due_at = now()
             WHERE endpoint_id IN (
                 SELECT endpoint_id FROM endpoints
                 WHERE registered_at IS NULL AND deleted_at IS NULL AND reserved_until < now() AND tenant_id = ",
        );
        update.push_bind(order.purge.tenant.as_str());
        if let Some(application) = &order.purge.application {
            update.push(" AND application_name = ").push_bind(application.as_str());
        }
        update.push(" AND created_at <= ").push_bind(order.requested_at);
        update.push(" LIMIT ").push_bind(most).push(" FOR UPDATE SKIP LOCKED)");
        Ok(update.build().execute(&self.pool).await?.rows_affected())
    }

    /// An order is done. One that was given again meanwhile is not.
    pub(crate) async fn purged(&self, order: &PurgeOrder) -> Result<(), Error> {
        sqlx::query(
            "DELETE FROM purges WHERE tenant_id = $1 AND application_name = $2 AND requested_at = $3",
        )
        .bind(order.purge.tenant.as_str())
        .bind(order.purge.application.as_ref().map_or("", ApplicationName::as_str))
        .bind(order.requested_at)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Forgets deleted endpoints that were deleted long ago. Returns how many.
    pub(crate) async fn forget_deleted(&self, most: i64) -> Result<u64, Error> {
        let forgotten = sqlx::query(
            "DELETE FROM deleted_endpoints WHERE endpoint_id IN (
                 SELECT endpoint_id FROM deleted_endpoints WHERE deleted_at < now() - $1::text::interval
                 ORDER BY deleted_at LIMIT $2 FOR UPDATE SKIP LOCKED
             )",
        )
        .bind(REMEMBERED)
        .bind(most)
        .execute(&self.pool)
        .await?;
        Ok(forgotten.rows_affected())
    }

    /// Has those announced whose time has come. `announce` returns false when that did not succeed; then they stay due.
    ///
    /// The rows are locked meanwhile: a registration of the same id waits, so that the announcement is sent before the
    /// new endpoint is there.
    pub(crate) async fn announce_due(
        &self,
        most: i64,
        announce: impl AsyncFnOnce(&[Doomed]) -> bool,
    ) -> Result<usize, Error> {
        let mut connection = self.pool.acquire().await?;
        let mut transaction = connection.begin().await?;
        let rows: Vec<DoomedRow> = sqlx::query_as(
            "SELECT endpoint_id, tenant_id, application_name, app_version_name, deleted_at, announce_at AS due_at
             FROM deleted_endpoints WHERE announce_at <= now() ORDER BY announce_at LIMIT $1 FOR UPDATE SKIP LOCKED",
        )
        .bind(most)
        .fetch_all(&mut *transaction)
        .await?;
        let due: Vec<Doomed> = rows.into_iter().map(Doomed::try_from).collect::<Result<_, _>>()?;
        if due.is_empty() || !announce(&due).await {
            return Ok(0);
        }
        let ids: Vec<&str> = due.iter().map(|doomed| doomed.endpoint_id.as_str()).collect();
        // The next of the times that is still to come.
        sqlx::query(
            "UPDATE deleted_endpoints SET announce_at = (
                 SELECT min(deleted_at + pause::interval) FROM unnest($2::text[]) AS pause
                 WHERE deleted_at + pause::interval > now()
             )
             WHERE endpoint_id = ANY ($1)",
        )
        .bind(ids)
        .bind(&ANNOUNCE_AFTER[..])
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(due.len())
    }
}

async fn is_remembered(
    connection: &mut PgConnection,
    tenant: &TenantId,
    endpoint_id: &EndpointId,
) -> Result<bool, Error> {
    let known = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM deleted_endpoints WHERE endpoint_id = $1 AND tenant_id = $2)",
    );
    Ok(known.bind(endpoint_id.as_str()).bind(tenant.as_str()).fetch_one(connection).await?)
}

async fn forget_relations(connection: &mut PgConnection, endpoint_id: &EndpointId) -> Result<(), Error> {
    sqlx::query("DELETE FROM endpoint_relations WHERE from_endpoint_id = $1 OR to_endpoint_id = $1")
        .bind(endpoint_id.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MIGRATOR;
    use sqlx::PgPool;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn a_late_step_of_one_deletion_does_not_touch_the_next() {
        let database = testkit::database().await;
        let pool = PgPool::connect(&database.url).await.unwrap();
        MIGRATOR.run(&pool).await.unwrap();
        sqlx::query(
            "INSERT INTO endpoints (endpoint_id, tenant_id, application_name, app_version_name,
                 app_version_registered_at, created_at, registered_at, registration_id, reserved_until)
             VALUES ('e', 'acme', 'app', 'app-v1', now(), now(), now(), gen_random_uuid(), now())",
        )
        .execute(&pool)
        .await
        .unwrap();
        let store = Store::new(pool.clone());
        let (tenant, endpoint_id) = (TenantId::parse("acme").unwrap(), EndpointId::parse("e").unwrap());
        let mark = async || store.mark(&tenant, &endpoint_id, HOUR).await;
        let Ok(Marked::Hidden(mut first, _)) = mark().await else { panic!("it is there") };
        assert!(matches!(mark().await, Err(Error::Deleting(_))), "somebody goes on with it");
        let mut slow = first.clone();
        assert!(store.hold(&mut first, Duration::ZERO).await.unwrap(), "it is left to others");
        assert!(!store.hold(&mut slow, HOUR).await.unwrap(), "it is in another hand");
        assert!(matches!(mark().await, Ok(Marked::Hidden(..))));
        // Gone, registered anew, and going again.
        sqlx::query("UPDATE endpoints SET deleted_at = clock_timestamp()").execute(&pool).await.unwrap();
        assert_eq!(store.remove(&first).await.unwrap(), None);
        let left = sqlx::query_scalar("SELECT count(*) FROM endpoints").fetch_one(&pool).await;
        assert_eq!(left.ok(), Some(1_i64));
        assert!(matches!(mark().await, Err(Error::Deleting(_))), "the new deletion is not hurried");
    }
}
