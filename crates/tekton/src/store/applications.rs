//! Applications and versions.

use chrono::{DateTime, Utc};
use ids::{AppVersionName, ApplicationName, TenantId};
use sqlx::FromRow;
use store::ConstraintExt as _;

use super::Store;
use crate::domain::{AppVersion, Application, Suffix, Texts, generate_name};
use crate::error::Error;

#[derive(FromRow)]
struct ApplicationRow {
    name: String,
    display_name: Option<String>,
    description: Option<String>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl ApplicationRow {
    fn with(self, versions: Vec<AppVersion>) -> Application {
        Application {
            name: self.name,
            display_name: self.display_name,
            description: self.description,
            created_date: self.created_at,
            updated_date: self.updated_at,
            versions,
        }
    }
}

#[derive(FromRow)]
struct VersionRow {
    application_name: String,
    #[sqlx(flatten)]
    version: AppVersion,
}

/// A version to make.
pub(crate) struct NewVersion {
    /// `None`: the next `v<n>`.
    pub(crate) suffix: Option<Suffix>,
    pub(crate) texts: Texts,
}

impl Store {
    /// Makes an application with a generated name.
    pub(crate) async fn create_application(
        &self,
        tenant: &TenantId,
        texts: Texts,
    ) -> Result<(ApplicationName, Application), Error> {
        let name = generate_name()?;
        // Two at the same moment may go one above the limit; it protects the platform, it is not a quota to
        // bill.
        let row: Option<ApplicationRow> = sqlx::query_as(
            "INSERT INTO applications (name, tenant_id, display_name, description)
             SELECT $1, $2, $3, $4 WHERE (SELECT count(*) FROM applications WHERE tenant_id = $2) < $5
             RETURNING name, display_name, description, created_at, updated_at",
        )
        .bind(name.as_str())
        .bind(tenant.as_str())
        .bind(texts.display_name.flatten())
        .bind(texts.description.flatten())
        .bind(self.limits.applications_max)
        .fetch_optional(&self.pool)
        .await?;
        let row = row.ok_or(Error::TooManyApplications(self.limits.applications_max))?;
        Ok((name, row.with(Vec::new())))
    }

    /// The tenant's applications in the order in which they were made.
    pub(crate) async fn applications(
        &self,
        tenant: &TenantId,
        offset: i64,
        limit: i64,
    ) -> Result<Vec<Application>, Error> {
        let rows: Vec<ApplicationRow> = sqlx::query_as(
            "SELECT name, display_name, description, created_at, updated_at FROM applications
             WHERE tenant_id = $1 ORDER BY created_at, name OFFSET $2 LIMIT $3",
        )
        .bind(tenant.as_str())
        .bind(offset)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        self.with_versions(rows).await
    }

    /// One application.
    pub(crate) async fn application(
        &self,
        tenant: &TenantId,
        name: &ApplicationName,
    ) -> Result<Application, Error> {
        let row: Option<ApplicationRow> = sqlx::query_as(
            "SELECT name, display_name, description, created_at, updated_at FROM applications
             WHERE tenant_id = $1 AND name = $2",
        )
        .bind(tenant.as_str())
        .bind(name.as_str())
        .fetch_optional(&self.pool)
        .await?;
        self.one(row, name).await
    }

    /// Changes the texts that are given.
    pub(crate) async fn update_application(
        &self,
        tenant: &TenantId,
        name: &ApplicationName,
        texts: Texts,
    ) -> Result<Application, Error> {
        let row: Option<ApplicationRow> = sqlx::query_as(
            "UPDATE applications SET updated_at = now(),
                 display_name = CASE WHEN $3 THEN $4 ELSE display_name END,
                 description = CASE WHEN $5 THEN $6 ELSE description END
             WHERE tenant_id = $1 AND name = $2
             RETURNING name, display_name, description, created_at, updated_at",
        )
        .bind(tenant.as_str())
        .bind(name.as_str())
        .bind(texts.display_name.is_some())
        .bind(texts.display_name.flatten())
        .bind(texts.description.is_some())
        .bind(texts.description.flatten())
        .fetch_optional(&self.pool)
        .await?;
        self.one(row, name).await
    }

    async fn one(&self, row: Option<ApplicationRow>, name: &ApplicationName) -> Result<Application, Error> {
        let found = self.with_versions(row.into_iter().collect()).await?;
        found.into_iter().next().ok_or_else(|| Error::UnknownApplication(name.clone()))
    }

    async fn with_versions(&self, rows: Vec<ApplicationRow>) -> Result<Vec<Application>, Error> {
        let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        let versions: Vec<VersionRow> = sqlx::query_as(
            "SELECT application_name, name, display_name, description, created_at, updated_at FROM app_versions
             WHERE application_name = ANY($1) ORDER BY application_name, created_at, name",
        )
        .bind(&names)
        .fetch_all(&self.pool)
        .await?;
        let mut by_application = std::collections::HashMap::<String, Vec<AppVersion>>::new();
        for row in versions {
            by_application.entry(row.application_name).or_default().push(row.version);
        }
        let joined = rows.into_iter().map(|row| {
            let versions = by_application.remove(&row.name).unwrap_or_default();
            row.with(versions)
        });
        Ok(joined.collect())
    }

    /// Makes a version.
    pub(crate) async fn create_version(
        &self,
        tenant: &TenantId,
        application: &ApplicationName,
        new: NewVersion,
    ) -> Result<(AppVersionName, AppVersion), Error> {
        let mut transaction = self.pool.begin().await?;
        // The lock makes concurrent creators take different numbers.
        let found: Option<i32> =
            sqlx::query_scalar("SELECT 1 FROM applications WHERE tenant_id = $1 AND name = $2 FOR UPDATE")
                .bind(tenant.as_str())
                .bind(application.as_str())
                .fetch_optional(&mut *transaction)
                .await?;
        found.ok_or_else(|| Error::UnknownApplication(application.clone()))?;
        let (count, last): (i64, i64) = sqlx::query_as(
            "SELECT count(*), coalesce(max(substring(suffix from '^v([0-9]{1,9})$')::bigint), 0) FROM app_versions
             WHERE application_name = $1",
        )
        .bind(application.as_str())
        .fetch_one(&mut *transaction)
        .await?;
        if count >= self.limits.app_versions_max {
            return Err(Error::TooManyVersions(self.limits.app_versions_max));
        }
        let suffix = new.suffix.unwrap_or_else(|| Suffix::numbered(last + 1));
        let name = suffix.version_of(application)?;
        let version = sqlx::query_as(
            "INSERT INTO app_versions (name, tenant_id, application_name, suffix, display_name, description)
             VALUES ($1, $2, $3, $4, $5, $6) RETURNING name, display_name, description, created_at, updated_at",
        )
        .bind(name.as_str())
        .bind(tenant.as_str())
        .bind(application.as_str())
        .bind(suffix.as_str())
        .bind(new.texts.display_name.flatten())
        .bind(new.texts.description.flatten())
        .fetch_one(&mut *transaction)
        .await
        .on_constraint("app_versions_pkey", || Error::VersionExists(name.clone()))?;
        transaction.commit().await?;
        Ok((name, version))
    }

    /// One version.
    pub(crate) async fn version(
        &self,
        tenant: &TenantId,
        application: &ApplicationName,
        version: &AppVersionName,
    ) -> Result<AppVersion, Error> {
        sqlx::query_as(
            "SELECT name, display_name, description, created_at, updated_at FROM app_versions
             WHERE tenant_id = $1 AND application_name = $2 AND name = $3",
        )
        .bind(tenant.as_str())
        .bind(application.as_str())
        .bind(version.as_str())
        .fetch_optional(&self.pool)
        .await?
        .ok_or_else(|| Error::UnknownVersion { application: application.clone(), version: version.clone() })
    }

    /// Changes the texts that are given.
    pub(crate) async fn update_version(
        &self,
        tenant: &TenantId,
        application: &ApplicationName,
        version: &AppVersionName,
        texts: Texts,
    ) -> Result<AppVersion, Error> {
        sqlx::query_as(
            "UPDATE app_versions SET updated_at = now(),
                 display_name = CASE WHEN $4 THEN $5 ELSE display_name END,
                 description = CASE WHEN $6 THEN $7 ELSE description END
             WHERE tenant_id = $1 AND application_name = $2 AND name = $3
             RETURNING name, display_name, description, created_at, updated_at",
        )
        .bind(tenant.as_str())
        .bind(application.as_str())
        .bind(version.as_str())
        .bind(texts.display_name.is_some())
        .bind(texts.display_name.flatten())
        .bind(texts.description.is_some())
        .bind(texts.description.flatten())
        .fetch_optional(&self.pool)
        .await?
        .ok_or_else(|| Error::UnknownVersion { application: application.clone(), version: version.clone() })
    }
}
