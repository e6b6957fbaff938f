//! Configuration blocks.

use std::collections::BTreeSet;

use bytes::Bytes;
use ids::{AppVersionName, ApplicationName, InstanceName, TenantId};
use serde_json::{Map, Value};
use sqlx::{FromRow, PgConnection};

use super::Store;
use crate::document::{Blocks, Fault, Level, Scope};
use crate::error::Error;

/// The version name under which application-level blocks are stored.
const APPLICATION_LEVEL: &str = "";

/// A block that was written or taken away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) instance: InstanceName,
    pub(crate) level: Level,
    pub(crate) removed: bool,
}

/// What a service instance is told about an application or version.
#[derive(Debug, FromRow)]
pub(crate) struct Configuration {
    pub(crate) tenant_id: String,
    pub(crate) application_name: String,
    pub(crate) app_version_names: Option<Vec<String>>,
    block: Option<String>,
}

impl Configuration {
    /// The block as JSON text.
    pub(crate) fn into_block(self) -> Option<Bytes> {
        self.block.map(Bytes::from)
    }
}

impl Level {
    fn column(&self) -> &str {
        match self {
            Self::Application => APPLICATION_LEVEL,
            Self::Version(name) => name.as_str(),
        }
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
        self.check_scope(&mut connection, tenant, scope, false).await?;
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
        F: FnOnce(Blocks, &[String]) -> Result<Blocks, Fault> + Send,
    {
        let mut transaction = self.pool.begin().await?;
        let versions = self.check_scope(&mut transaction, tenant, scope, true).await?;
        let before = load(&mut transaction, scope).await?;
        let after = change(before.clone(), &versions)?;
        let keys: BTreeSet<_> = before.keys().chain(after.keys()).cloned().collect();
        let mut changes = Vec::new();
        for (instance, level) in keys {
            let key = (instance, level);
            let block = after.get(&key);
            if before.get(&key) == block {
                continue;
            }
            let (instance, level) = key;
            match block {
                Some(block) => self.write(&mut transaction, tenant, scope, &instance, &level, block).await?,
                None => remove(&mut transaction, scope, &instance, &level).await?,
            }
            changes.push(Change { instance, level, removed: block.is_none() });
        }
        self.check_size(&mut transaction, scope).await?;
        transaction.commit().await?;
        Ok((after, changes))
    }

    /// Checks that the application (and version) exists for the tenant, and gives the application's version
    /// names. The lock keeps two changes of one application apart.
    async fn check_scope(
        &self,
        connection: &mut PgConnection,
        tenant: &TenantId,
        scope: &Scope,
        lock: bool,
    ) -> Result<Vec<String>, Error> {
        let select = if lock {
            "SELECT 1 FROM applications WHERE tenant_id = $1 AND name = $2 FOR UPDATE"
        } else {
            "SELECT 1 FROM applications WHERE tenant_id = $1 AND name = $2"
        };
        let found: Option<i32> = sqlx::query_scalar(select)
            .bind(tenant.as_str())
            .bind(scope.application.as_str())
            .fetch_optional(&mut *connection)
            .await?;
        found.ok_or_else(|| Error::UnknownApplication(scope.application.clone()))?;
        let versions: Vec<String> =
            sqlx::query_scalar("SELECT name FROM app_versions WHERE application_name = $1")
                .bind(scope.application.as_str())
                .fetch_all(&mut *connection)
                .await?;
        match &scope.level {
            Level::Version(version) if !versions.iter().any(|name| name == version.as_str()) => {
                Err(Error::UnknownVersion {
                    application: scope.application.clone(),
                    version: version.clone(),
                })
            }
            _ => Ok(versions),
        }
    }

    async fn write(
        &self,
        connection: &mut PgConnection,
        tenant: &TenantId,
        scope: &Scope,
        instance: &InstanceName,
        level: &Level,
        block: &Map<String, Value>,
    ) -> Result<(), Error> {
        let text = serde_json::to_string(block).map_err(Error::StoredBlock)?;
        if text.len() > self.limits.block_bytes_max {
            let (bytes, max) = (text.len(), self.limits.block_bytes_max);
            return Err(Error::BlockTooLarge { instance: instance.to_string(), bytes, max });
        }
        sqlx::query(
            "INSERT INTO service_configs (tenant_id, application_name, app_version_name, service_instance_name, block)
             VALUES ($1, $2, $3, $4, $5::json)
             ON CONFLICT ON CONSTRAINT service_configs_pkey DO UPDATE SET block = excluded.block, updated_at = now()",
        )
        .bind(tenant.as_str())
        .bind(scope.application.as_str())
        .bind(level.column())
        .bind(instance.as_str())
        .bind(text)
        .execute(connection)
        .await?;
        Ok(())
    }

    async fn check_size(&self, connection: &mut PgConnection, scope: &Scope) -> Result<(), Error> {
        let bytes: i64 = sqlx::query_scalar(
            "SELECT coalesce(sum(octet_length(block::text)), 0)::bigint FROM service_configs WHERE application_name = $1",
        )
        .bind(scope.application.as_str())
        .fetch_one(connection)
        .await?;
        let (bytes, max) =
            (usize::try_from(bytes).unwrap_or(usize::MAX), self.limits.application_config_bytes_max);
        if bytes > max { Err(Error::ConfigTooLarge { bytes, max }) } else { Ok(()) }
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
}

async fn load(connection: &mut PgConnection, scope: &Scope) -> Result<Blocks, Error> {
    let rows: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT service_instance_name, app_version_name, block::text FROM service_configs WHERE application_name = $1",
    )
    .bind(scope.application.as_str())
    .fetch_all(connection)
    .await?;
    let mut blocks = Blocks::new();
    for (instance, version, text) in rows {
        let level = match version.as_str() {
            APPLICATION_LEVEL => Level::Application,
            name => Level::Version(AppVersionName::parse(name)?),
        };
        if scope.covers(&level) {
            let block = serde_json::from_str(&text).map_err(Error::StoredBlock)?;
            blocks.insert((InstanceName::parse(&instance)?, level), block);
        }
    }
    Ok(blocks)
}

async fn remove(
    connection: &mut PgConnection,
    scope: &Scope,
    instance: &InstanceName,
    level: &Level,
) -> Result<(), Error> {
    sqlx::query(
        "DELETE FROM service_configs
         WHERE application_name = $1 AND app_version_name = $2 AND service_instance_name = $3",
    )
    .bind(scope.application.as_str())
    .bind(level.column())
    .bind(instance.as_str())
    .execute(connection)
    .await?;
    Ok(())
}
