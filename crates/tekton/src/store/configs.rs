//! The configuration of one tenant, application or version.

use bytes::Bytes;
use ids::{AppVersionName, ApplicationName, InstanceName, TenantId};
use sqlx::FromRow;

use super::Store;
use super::blocks::{check_scope, load};
use crate::document::{Blocks, Level, Scope};
use crate::error::Error;

/// A block that was written or taken away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) instance: InstanceName,
    pub(crate) level: Level,
    pub(crate) removed: bool,
}

/// What a service instance is told about a tenant, an application or a version.
#[derive(Debug, FromRow)]
pub(crate) struct Configuration {
    pub(crate) tenant_id: String,
    pub(crate) application_name: Option<String>,
    pub(crate) app_version_names: Option<Vec<String>>,
    block: Option<String>,
}

impl Configuration {
    /// The block as JSON text.
    pub(crate) fn into_block(self) -> Option<Bytes> {
        self.block.map(Bytes::from)
    }
}

impl Store {
    /// The blocks of a resource, of the named service instances or (when none is named) of all.
    pub(crate) async fn blocks(
        &self,
        tenant: &TenantId,
        scope: &Scope,
        instances: &[InstanceName],
    ) -> Result<Blocks, Error> {
        let mut connection = self.pool.acquire().await?;
        check_scope(&mut connection, tenant, scope, false).await?;
        let mut blocks = load(&mut connection, scope).await?;
        blocks.retain(|(instance, _), _| instances.is_empty() || instances.contains(instance));
        Ok(blocks)
    }

    /// Replaces the blocks of a resource by what `change` makes of them, given the application's version
    /// names. Tells what has changed: nothing when they were so already.
    pub(crate) async fn change_blocks<F>(
        &self,
        tenant: &TenantId,
        scope: &Scope,
        change: F,
    ) -> Result<(Blocks, Vec<Change>), Error>
    where
        F: FnOnce(Blocks, &[String]) -> Result<Blocks, Error> + Send,
    {
        let mut transaction = self.pool.begin().await?;
        let versions = check_scope(&mut transaction, tenant, scope, true).await?;
        let before = load(&mut transaction, scope).await?;
        let after = change(before.clone(), &versions)?;
        let changes = self.apply(&mut transaction, tenant, scope, &before, &after).await?;
        transaction.commit().await?;
        Ok((after, changes))
    }

    /// What a service instance needs to know of a version: its own block, else the application's.
    pub(crate) async fn version_configuration(
        &self,
        version: &AppVersionName,
        instance: &InstanceName,
    ) -> Result<Option<Configuration>, Error> {
        let found = sqlx::query_as(
            "SELECT asked.tenant_id, asked.application_name,
                 (SELECT array_agg(name) FROM app_versions WHERE application_name = asked.application_name)
                     AS app_version_names,
                 (SELECT block::text FROM service_configs
                  WHERE application_name = asked.application_name AND app_version_name IN (asked.name, '')
                      AND service_instance_name = $2
                  ORDER BY app_version_name DESC LIMIT 1) AS block
             FROM app_versions AS asked WHERE asked.name = $1",
        )
        .bind(version.as_str())
        .bind(instance.as_str())
        .fetch_optional(&self.pool)
        .await?;
        Ok(found)
    }

    /// What a service instance needs to know of an application: its application-level block.
    pub(crate) async fn application_configuration(
        &self,
        application: &ApplicationName,
        instance: &InstanceName,
    ) -> Result<Option<Configuration>, Error> {
        let found = sqlx::query_as(
            "SELECT asked.tenant_id, asked.name AS application_name,
                 (SELECT array_agg(name) FROM app_versions WHERE application_name = asked.name) AS app_version_names,
                 (SELECT block::text FROM service_configs
                  WHERE application_name = asked.name AND app_version_name = '' AND service_instance_name = $2) AS block
             FROM applications AS asked WHERE asked.name = $1",
        )
        .bind(application.as_str())
        .bind(instance.as_str())
        .fetch_optional(&self.pool)
        .await?;
        Ok(found)
    }

    /// What a service instance needs to know of a tenant. Which tenants there are is known elsewhere: one that
    /// nothing is configured for is like one that does not exist.
    pub(crate) async fn tenant_configuration(
        &self,
        tenant: &TenantId,
        instance: &InstanceName,
    ) -> Result<Configuration, Error> {
        let block = sqlx::query_scalar(
            "SELECT block::text FROM tenant_configs WHERE tenant_id = $1 AND service_instance_name = $2",
        )
        .bind(tenant.as_str())
        .bind(instance.as_str())
        .fetch_optional(&self.pool)
        .await?;
        Ok(Configuration {
            tenant_id: tenant.to_string(),
            application_name: None,
            app_version_names: None,
            block,
        })
    }
}
