//! Many applications at once.

use std::collections::{BTreeMap, BTreeSet};

use ids::{ApplicationName, InstanceName, TenantId};
use sqlx::FromRow;

use super::Store;
use super::blocks::{check_scope, level_of, load, parse_block};
use crate::document::{Blocks, Level, Nodes, Scope};
use crate::error::Error;
use crate::store::Change;

/// Which configuration to export.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    /// `None`: all tenants.
    pub(crate) tenant: Option<TenantId>,
    /// `None`: all applications.
    pub(crate) applications: Option<BTreeSet<ApplicationName>>,
    /// Empty: all service instances.
    pub(crate) instances: Vec<InstanceName>,
}

impl Selection {
    pub(super) fn tenant(&self) -> Option<&str> {
        self.tenant.as_ref().map(TenantId::as_str)
    }

    pub(super) fn applications(&self) -> Option<Vec<&str>> {
        self.applications.as_ref().map(|names| names.iter().map(ApplicationName::as_str).collect())
    }

    fn instances(&self) -> Vec<&str> {
        self.instances.iter().map(InstanceName::as_str).collect()
    }
}

#[derive(FromRow)]
struct BlockRow {
    owner: String,
    app_version_name: String,
    service_instance_name: String,
    block: String,
}

/// What a bulk load did to each application: its blocks as they are now, and what has changed.
pub(crate) type Loaded = BTreeMap<ApplicationName, (Blocks, Vec<Change>)>;

impl Store {
    /// Sets the blocks of several applications, all or none. The service instances that are not named for an
    /// application keep theirs.
    pub(crate) async fn load_applications(
        &self,
        tenant: &TenantId,
        all: BTreeMap<ApplicationName, Nodes>,
    ) -> Result<Loaded, Error> {
        let mut transaction = self.pool.begin().await?;
        let mut loaded = Loaded::new();
        // In the order of the names, so that two loads do not wait for each other.
        for (application, nodes) in all {
            let scope = Scope::Application(application.clone());
            let versions = check_scope(&mut transaction, tenant, &scope, true).await?;
            let mut before = load(&mut transaction, &scope).await?;
            before.retain(|(instance, _), _| nodes.contains_key(instance));
            let after = scope.replace(nodes, &versions)?;
            let changes = self.apply(&mut transaction, tenant, &scope, &before, &after).await?;
            loaded.insert(application, (after, changes));
        }
        transaction.commit().await?;
        Ok(loaded)
    }

    /// The blocks of applications; those that have none are left out.
    pub(crate) async fn export_applications(
        &self,
        selection: &Selection,
    ) -> Result<BTreeMap<ApplicationName, Blocks>, Error> {
        let mut transaction = self.snapshot().await?;
        let (tenant, applications, instances) =
            (selection.tenant(), selection.applications(), selection.instances());
        let bytes: i64 = sqlx::query_scalar(
            "SELECT coalesce(sum(octet_length(block::text)), 0)::bigint FROM service_configs
             WHERE ($1::text IS NULL OR tenant_id = $1) AND ($2::text[] IS NULL OR application_name = ANY($2))
                 AND (cardinality($3::text[]) = 0 OR service_instance_name = ANY($3))",
        )
        .bind(tenant)
        .bind(&applications)
        .bind(&instances)
        .fetch_one(&mut *transaction)
        .await?;
        self.check_export(bytes)?;
        let rows: Vec<BlockRow> = sqlx::query_as(
            "SELECT application_name AS owner, app_version_name, service_instance_name, block::text FROM service_configs
             WHERE ($1::text IS NULL OR tenant_id = $1) AND ($2::text[] IS NULL OR application_name = ANY($2))
                 AND (cardinality($3::text[]) = 0 OR service_instance_name = ANY($3))",
        )
        .bind(tenant)
        .bind(&applications)
        .bind(&instances)
        .fetch_all(&mut *transaction)
        .await?;
        let mut all: BTreeMap<ApplicationName, Blocks> = BTreeMap::new();
        for row in rows {
            let key = (InstanceName::parse(&row.service_instance_name)?, level_of(&row.app_version_name)?);
            all.entry(ApplicationName::parse(&row.owner)?).or_default().insert(key, parse_block(&row.block)?);
        }
        Ok(all)
    }

    /// The blocks of tenants at their own level; those that have none are left out.
    pub(crate) async fn export_tenants(
        &self,
        selection: &Selection,
    ) -> Result<BTreeMap<TenantId, Blocks>, Error> {
        let mut transaction = self.snapshot().await?;
        let (tenant, instances) = (selection.tenant(), selection.instances());
        let bytes: i64 = sqlx::query_scalar(
            "SELECT coalesce(sum(octet_length(block::text)), 0)::bigint FROM tenant_configs
             WHERE ($1::text IS NULL OR tenant_id = $1)
                 AND (cardinality($2::text[]) = 0 OR service_instance_name = ANY($2))",
        )
        .bind(tenant)
        .bind(&instances)
        .fetch_one(&mut *transaction)
        .await?;
        self.check_export(bytes)?;
        let rows: Vec<BlockRow> = sqlx::query_as(
            "SELECT tenant_id AS owner, '' AS app_version_name, service_instance_name, block::text FROM tenant_configs
             WHERE ($1::text IS NULL OR tenant_id = $1)
                 AND (cardinality($2::text[]) = 0 OR service_instance_name = ANY($2))",
        )
        .bind(tenant)
        .bind(&instances)
        .fetch_all(&mut *transaction)
        .await?;
        let mut all: BTreeMap<TenantId, Blocks> = BTreeMap::new();
        for row in rows {
            let key = (InstanceName::parse(&row.service_instance_name)?, Level::Tenant);
            all.entry(TenantId::parse(&row.owner)?).or_default().insert(key, parse_block(&row.block)?);
        }
        Ok(all)
    }

    /// Sizes are checked and blocks read in one state of the database.
    async fn snapshot(&self) -> Result<sqlx::Transaction<'static, sqlx::Postgres>, Error> {
        let mut transaction = self.pool.begin().await?;
        let read_only = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY";
        sqlx::query(read_only).execute(&mut *transaction).await?;
        Ok(transaction)
    }

    fn check_export(&self, bytes: i64) -> Result<(), Error> {
        let (bytes, max) = (usize::try_from(bytes).unwrap_or(usize::MAX), self.limits.export_bytes_max);
        if bytes > max { Err(Error::ExportTooLarge { bytes, max }) } else { Ok(()) }
    }
}
