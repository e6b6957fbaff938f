//! Deleting applications and versions, and remembering that it must be told.

use ids::{AppVersionName, ApplicationName, TenantId};
use sqlx::{FromRow, PgConnection};

use super::Store;
use crate::domain::Suffix;
use crate::error::Error;

/// Days after which the name of what was deleted is free again.
pub(super) const NAME_FREE_DAYS: i32 = 30;
/// Seconds after each announcement of a deletion until the next; after the last there is none. The first one
/// counts from the deletion itself: it is for the case that this process died between the commit and the event.
const ANNOUNCE_AFTER_S: [i32; 5] = [5, 60, 600, 3_600, 86_400];
/// Deletions that are announced in one go.
const DUE_MAX: i64 = 500;

/// An application or version that was deleted.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub(crate) struct Deletion {
    pub(crate) tenant_id: String,
    pub(crate) application_name: String,
    /// Empty: the whole application.
    pub(crate) app_version_name: String,
}

impl Store {
    /// Deletes an application with its configuration; with its versions only if `cascade`.
    pub(crate) async fn delete_application(
        &self,
        tenant: &TenantId,
        application: &ApplicationName,
        cascade: bool,
    ) -> Result<(), Error> {
        let mut transaction = self.pool.begin().await?;
        lock_names(&mut transaction).await?;
        lock_application(&mut transaction, tenant, application).await?;
        let versions: i64 =
            sqlx::query_scalar("SELECT count(*) FROM app_versions WHERE application_name = $1")
                .bind(application.as_str())
                .fetch_one(&mut *transaction)
                .await?;
        if versions > 0 && !cascade {
            return Err(Error::HasVersions { application: application.clone(), versions });
        }
        remember(&mut transaction, tenant, application.as_str(), "").await?;
        // Versions and configuration go with it.
        sqlx::query("DELETE FROM applications WHERE tenant_id = $1 AND name = $2")
            .bind(tenant.as_str())
            .bind(application.as_str())
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Deletes a version with its configuration.
    pub(crate) async fn delete_version(
        &self,
        tenant: &TenantId,
        application: &ApplicationName,
        version: &AppVersionName,
    ) -> Result<(), Error> {
        let mut transaction = self.pool.begin().await?;
        lock_application(&mut transaction, tenant, application).await?;
        let suffix: Option<String> = sqlx::query_scalar(
            "DELETE FROM app_versions WHERE application_name = $1 AND name = $2 RETURNING suffix",
        )
        .bind(application.as_str())
        .bind(version.as_str())
        .fetch_optional(&mut *transaction)
        .await?;
        let suffix = suffix.ok_or_else(|| Error::UnknownVersion {
            application: application.clone(),
            version: version.clone(),
        })?;
        sqlx::query("DELETE FROM service_configs WHERE application_name = $1 AND app_version_name = $2")
            .bind(application.as_str())
            .bind(version.as_str())
            .execute(&mut *transaction)
            .await?;
        if let Some(number) = Suffix::parse(&suffix)?.number() {
            sqlx::query(
                "UPDATE applications SET deleted_version_number = greatest(deleted_version_number, $2) WHERE name = $1",
            )
            .bind(application.as_str())
            .bind(number)
            .execute(&mut *transaction)
            .await?;
        }
        remember(&mut transaction, tenant, application.as_str(), version.as_str()).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Deletes all that a tenant has. Tells which applications there were, and whether anything was configured for the
    /// tenant as a whole.
    pub(crate) async fn delete_tenant(&self, tenant: &TenantId) -> Result<(Vec<Deletion>, bool), Error> {
        let mut transaction = self.pool.begin().await?;
        lock_names(&mut transaction).await?;
        let names: Vec<String> =
            sqlx::query_scalar("DELETE FROM applications WHERE tenant_id = $1 RETURNING name")
                .bind(tenant.as_str())
                .fetch_all(&mut *transaction)
                .await?;
        for name in &names {
            remember(&mut transaction, tenant, name, "").await?;
        }
        let configs = sqlx::query("DELETE FROM tenant_configs WHERE tenant_id = $1")
            .bind(tenant.as_str())
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        let deleted = names.into_iter().map(|application_name| Deletion {
            tenant_id: tenant.to_string(),
            application_name,
            app_version_name: String::new(),
        });
        Ok((deleted.collect(), configs.rows_affected() > 0))
    }

    /// Deletions that must be told (again) now. They are not due again before the next time that the schedule
    /// names, so that replicas share the work.
    pub(crate) async fn take_due_deletions(&self) -> Result<Vec<Deletion>, Error> {
        let due = sqlx::query_as(
            "UPDATE deletions SET announcements = announcements + 1,
                 next_announcement_at = now() + ($2::int[])[announcements + 2] * interval '1 second'
             WHERE (application_name, app_version_name) IN (
                 SELECT application_name, app_version_name FROM deletions WHERE next_announcement_at <= now()
                 ORDER BY next_announcement_at LIMIT $1 FOR UPDATE SKIP LOCKED)
             RETURNING tenant_id, application_name, app_version_name",
        )
        .bind(DUE_MAX)
        .bind(ANNOUNCE_AFTER_S.as_slice())
        .fetch_all(&self.pool)
        .await?;
        Ok(due)
    }

    /// Forgets deletions whose names are free again.
    pub(crate) async fn forget_deletions(&self) -> Result<(), Error> {
        sqlx::query("DELETE FROM deletions WHERE deleted_at < now() - $1 * interval '1 day'")
            .bind(NAME_FREE_DAYS)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

/// Keeps the giving of names and the deleting of applications apart: a name is not given while the deletion of
/// its last owner is not yet seen.
pub(super) async fn lock_names(connection: &mut PgConnection) -> Result<(), Error> {
    const NAMES_LOCK: i64 = 0x7465_6b33;
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(NAMES_LOCK).execute(connection).await?;
    Ok(())
}

/// Checks that the application exists for the tenant, and keeps others from changing it.
pub(super) async fn lock_application(
    connection: &mut PgConnection,
    tenant: &TenantId,
    application: &ApplicationName,
) -> Result<(), Error> {
    let found: Option<i32> =
        sqlx::query_scalar("SELECT 1 FROM applications WHERE tenant_id = $1 AND name = $2 FOR UPDATE")
            .bind(tenant.as_str())
            .bind(application.as_str())
            .fetch_optional(connection)
            .await?;
    found.map(|_| ()).ok_or_else(|| Error::UnknownApplication(application.clone()))
}

/// Refuses a name that belonged to something that was deleted not long ago.
pub(super) async fn check_free(
    connection: &mut PgConnection,
    application: &str,
    version: &str,
) -> Result<(), Error> {
    let deleted = sqlx::query_scalar(
        "SELECT deleted_at FROM deletions WHERE application_name = $1 AND app_version_name = $2",
    )
    .bind(application)
    .bind(version)
    .fetch_optional(connection)
    .await?;
    match deleted {
        None => Ok(()),
        Some(at) => {
            let name = if version.is_empty() { application } else { version };
            Err(Error::Deleted { name: name.to_owned(), at, days: NAME_FREE_DAYS })
        }
    }
}

async fn remember(
    connection: &mut PgConnection,
    tenant: &TenantId,
    application: &str,
    version: &str,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO deletions (application_name, app_version_name, tenant_id, next_announcement_at)
         VALUES ($1, $2, $3, now() + $4 * interval '1 second')
         ON CONFLICT ON CONSTRAINT deletions_pkey DO UPDATE SET tenant_id = excluded.tenant_id, deleted_at = now(),
             announcements = 0, next_announcement_at = excluded.next_announcement_at",
    )
    .bind(application)
    .bind(version)
    .bind(tenant.as_str())
    .bind(ANNOUNCE_AFTER_S[0])
    .execute(connection)
    .await?;
    Ok(())
}
