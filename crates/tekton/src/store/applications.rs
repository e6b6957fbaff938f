//! Applications and versions.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use ids::{AppVersionName, ApplicationName, TenantId};
use sqlx::FromRow;
use store::ConstraintExt as _;

use super::deletions::{check_free, lock_application, lock_names};
use super::{Selection, Store};
use crate::domain::{AppVersion, Application, Suffix, Texts, generate_name};
use crate::error::Error;

#[derive(FromRow)]
struct ApplicationRow {
    name: String,
    display_name: Option<String>,
    description: Option<String>,
    application_group: Option<String>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl ApplicationRow {
    fn with(self, versions: Vec<AppVersion>) -> Application {
        Application {
            name: self.name,
            display_name: self.display_name,
            description: self.description,
            group: self.application_group,
            created_date: self.created_at,
            updated_date: self.updated_at,
            versions,
        }
    }
}

#[derive(FromRow)]
struct OwnedRow {
    tenant_id: String,
    #[sqlx(flatten)]
    application: ApplicationRow,
}

#[derive(FromRow)]
struct VersionRow {
    application_name: String,
    #[sqlx(flatten)]
    version: AppVersion,
}

/// An application to make.
pub(crate) struct NewApplication {
    /// `None`: a generated one.
    pub(crate) name: Option<ApplicationName>,
    pub(crate) group: Option<String>,
    pub(crate) texts: Texts,
}

/// A version to make.
pub(crate) struct NewVersion {
    /// `None`: the next `v<n>`.
    pub(crate) suffix: Option<Suffix>,
    pub(crate) texts: Texts,
}

impl Store {
    /// Makes an application.
    pub(crate) async fn create_application(
        &self,
        tenant: &TenantId,
        new: NewApplication,
    ) -> Result<(ApplicationName, Application), Error> {
        let mut transaction = self.pool.begin().await?;
        let name = match new.name {
            // Unique without asking.
            None => generate_name()?,
            Some(name) => {
                lock_names(&mut transaction).await?;
                check_free(&mut transaction, name.as_str(), "").await?;
                name
            }
        };
        // Two at the same moment may go one above the limit; it protects the platform, it is not a quota to
        // bill.
        let row: Result<Option<ApplicationRow>, sqlx::Error> = sqlx::query_as(
            "INSERT INTO applications (name, tenant_id, display_name, description, application_group)
             SELECT $1, $2, $3, $4, $5 WHERE (SELECT count(*) FROM applications WHERE tenant_id = $2) < $6
             RETURNING name, display_name, description, application_group, created_at, updated_at",
        )
        .bind(name.as_str())
        .bind(tenant.as_str())
        .bind(new.texts.display_name.flatten())
        .bind(new.texts.description.flatten())
        .bind(new.group)
        .bind(self.limits.applications_max)
        .fetch_optional(&mut *transaction)
        .await;
        let taken = row.as_ref().err().and_then(store::violated_constraint).is_some_and(|constraint| {
            ["applications_pkey", "applications_name_alike_key"].contains(&constraint)
        });
        if taken {
            return Err(Error::ApplicationExists(name));
        }
        let row = row?.ok_or(Error::TooManyApplications(self.limits.applications_max))?;
        transaction.commit().await?;
        Ok((name, row.with(Vec::new())))
    }

    /// The tenant's applications in the order in which they were made, of all or of some only.
    pub(crate) async fn applications(
        &self,
        tenant: &TenantId,
        only: Option<&BTreeSet<ApplicationName>>,
        offset: i64,
        limit: i64,
    ) -> Result<Vec<Application>, Error> {
        let only: Option<Vec<&str>> = only.map(|names| names.iter().map(ApplicationName::as_str).collect());
        let rows: Vec<ApplicationRow> = sqlx::query_as(
            "SELECT name, display_name, description, application_group, created_at, updated_at FROM applications
             WHERE tenant_id = $1 AND ($4::text[] IS NULL OR name = ANY($4))
             ORDER BY created_at, name OFFSET $2 LIMIT $3",
        )
        .bind(tenant.as_str())
        .bind(offset)
        .bind(limit)
        .bind(only)
        .fetch_all(&self.pool)
        .await?;
        self.with_versions(rows).await
    }

    /// All applications of a selection, by tenant; tenants that have none are left out.
    pub(crate) async fn all_applications(
        &self,
        selection: &Selection,
    ) -> Result<BTreeMap<TenantId, Vec<Application>>, Error> {
        let max = self.limits.export_applications_max;
        let rows: Vec<OwnedRow> = sqlx::query_as(
            "SELECT tenant_id, name, display_name, description, application_group, created_at, updated_at
             FROM applications
             WHERE ($1::text IS NULL OR tenant_id = $1) AND ($2::text[] IS NULL OR name = ANY($2))
             ORDER BY created_at, name LIMIT $3",
        )
        .bind(selection.tenant())
        .bind(selection.applications())
        .bind(max + 1)
        .fetch_all(&self.pool)
        .await?;
        if i64::try_from(rows.len()).is_ok_and(|number| number > max) {
            return Err(Error::TooManyToExport(max));
        }
        let (tenants, rows): (Vec<String>, Vec<ApplicationRow>) =
            rows.into_iter().map(|row| (row.tenant_id, row.application)).unzip();
        let applications = self.with_versions(rows).await?;
        let mut all: BTreeMap<TenantId, Vec<Application>> = BTreeMap::new();
        for (tenant, application) in tenants.iter().zip(applications) {
            all.entry(TenantId::parse(tenant)?).or_default().push(application);
        }
        Ok(all)
    }

    /// One application.
    pub(crate) async fn application(
        &self,
        tenant: &TenantId,
        name: &ApplicationName,
    ) -> Result<Application, Error> {
        let row: Option<ApplicationRow> = sqlx::query_as(
            "SELECT name, display_name, description, application_group, created_at, updated_at FROM applications
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
             RETURNING name, display_name, description, application_group, created_at, updated_at",
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
        lock_application(&mut transaction, tenant, application).await?;
        let (count, last): (i64, i64) = sqlx::query_as(
            "SELECT count(version.name),
                 greatest(application.deleted_version_number,
                     max(substring(version.suffix from '^v([0-9]{1,9})$')::bigint))
             FROM applications AS application
             LEFT JOIN app_versions AS version ON version.application_name = application.name
             WHERE application.name = $1 GROUP BY application.name",
        )
        .bind(application.as_str())
        .fetch_one(&mut *transaction)
        .await?;
        if count >= self.limits.app_versions_max {
            return Err(Error::TooManyVersions(self.limits.app_versions_max));
        }
        let suffix = new.suffix.unwrap_or_else(|| Suffix::numbered(last + 1));
        let name = suffix.version_of(application)?;
        check_free(&mut transaction, application.as_str(), name.as_str()).await?;
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
