//! Blocks in their tables, as one transaction sees them.

use std::collections::BTreeSet;

use ids::{AppVersionName, InstanceName, TenantId};
use serde_json::Value;
use sqlx::PgConnection;

use super::Store;
use crate::document::{Block, Blocks, Level, Scope};
use crate::error::Error;
use crate::instances::Description;
use crate::schema::{FAULTS_MAX, Schema};
use crate::store::Change;

/// The version name under which application-level blocks are stored.
const APPLICATION_LEVEL: &str = "";
/// The first number of the advisory locks that keep changes of one tenant's configuration apart.
const TENANT_LOCK: i32 = 0x7465_6b31;

/// The level under which a stored block stands.
pub(super) fn level_of(version: &str) -> Result<Level, Error> {
    match version {
        APPLICATION_LEVEL => Ok(Level::Application),
        name => Ok(Level::Version(AppVersionName::parse(name)?)),
    }
}

pub(super) fn parse_block(text: &str) -> Result<Block, Error> {
    serde_json::from_str(text).map_err(Error::Stored)
}

/// Checks that the scope's application (and version) exists for the tenant, and gives the application's
/// version names. The lock keeps two changes of one application, or of one tenant, apart.
pub(super) async fn check_scope(
    connection: &mut PgConnection,
    tenant: &TenantId,
    scope: &Scope,
    lock: bool,
) -> Result<Vec<String>, Error> {
    let Some(application) = scope.application() else {
        if lock {
            sqlx::query("SELECT pg_advisory_xact_lock($1, hashtext($2))")
                .bind(TENANT_LOCK)
                .bind(tenant.as_str())
                .execute(connection)
                .await?;
        }
        return Ok(Vec::new());
    };
    let select = if lock {
        "SELECT 1 FROM applications WHERE tenant_id = $1 AND name = $2 FOR UPDATE"
    } else {
        "SELECT 1 FROM applications WHERE tenant_id = $1 AND name = $2"
    };
    let found: Option<i32> = sqlx::query_scalar(select)
        .bind(tenant.as_str())
        .bind(application.as_str())
        .fetch_optional(&mut *connection)
        .await?;
    found.ok_or_else(|| Error::UnknownApplication(application.clone()))?;
    let versions: Vec<String> =
        sqlx::query_scalar("SELECT name FROM app_versions WHERE application_name = $1")
            .bind(application.as_str())
            .fetch_all(&mut *connection)
            .await?;
    match scope {
        Scope::Version(_, version) if !versions.iter().any(|name| name == version.as_str()) => {
            Err(Error::UnknownVersion { application: application.clone(), version: version.clone() })
        }
        _ => Ok(versions),
    }
}

/// The blocks of a scope.
pub(super) async fn load(connection: &mut PgConnection, scope: &Scope) -> Result<Blocks, Error> {
    let mut blocks = Blocks::new();
    let Some(application) = scope.application() else {
        let Scope::Tenant(tenant) = scope else { return Ok(blocks) };
        let rows: Vec<(String, String)> = sqlx::query_as(
            "SELECT service_instance_name, block::text FROM tenant_configs WHERE tenant_id = $1",
        )
        .bind(tenant.as_str())
        .fetch_all(connection)
        .await?;
        for (instance, text) in rows {
            blocks.insert((InstanceName::parse(&instance)?, Level::Tenant), parse_block(&text)?);
        }
        return Ok(blocks);
    };
    let rows: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT service_instance_name, app_version_name, block::text FROM service_configs WHERE application_name = $1",
    )
    .bind(application.as_str())
    .fetch_all(connection)
    .await?;
    for (instance, version, text) in rows {
        let level = level_of(&version)?;
        if scope.covers(&level) {
            blocks.insert((InstanceName::parse(&instance)?, level), parse_block(&text)?);
        }
    }
    Ok(blocks)
}

impl Store {
    /// Makes the blocks of a scope be `after` where they were `before`, and tells what has changed. What stays
    /// as it was is not judged again.
    pub(super) async fn apply(
        &self,
        connection: &mut PgConnection,
        tenant: &TenantId,
        scope: &Scope,
        before: &Blocks,
        after: &Blocks,
    ) -> Result<Vec<Change>, Error> {
        let keys: BTreeSet<_> = before.keys().chain(after.keys()).collect();
        let changed: Vec<_> = keys.into_iter().filter(|key| before.get(key) != after.get(key)).collect();
        let set = || changed.iter().filter_map(|key| Some((*key, after.get(*key)?)));
        self.judge(connection, scope, set()).await?;
        let mut changes = Vec::with_capacity(changed.len());
        for key in &changed {
            let (instance, level) = *key;
            match after.get(*key) {
                Some(block) => self.write(connection, tenant, scope, instance, level, block).await?,
                None => remove(connection, tenant, scope, instance, level).await?,
            }
            let removed = !after.contains_key(*key);
            changes.push(Change { instance: instance.clone(), level: level.clone(), removed });
        }
        self.check_size(connection, tenant, scope).await?;
        Ok(changes)
    }

    /// Judges blocks by the schemas that their services have published.
    async fn judge<'b>(
        &self,
        connection: &mut PgConnection,
        scope: &Scope,
        blocks: impl Iterator<Item = (&'b (InstanceName, Level), &'b Block)>,
    ) -> Result<(), Error> {
        let mut faults = Vec::new();
        let mut described: Option<(&InstanceName, Description)> = None;
        for ((instance, level), block) in blocks {
            // Blocks come by service instance: each description is read once.
            let description = match described.take().filter(|(known, _)| *known == instance) {
                Some((_, description)) => description,
                None => self.description(connection, instance).await?,
            };
            let Some(schema) = description.schema(level) else {
                return Err(Error::NoSchema { instance: instance.clone(), level: level.clone() });
            };
            let schema = Schema::compile(schema)
                .map_err(|source| Error::Schema { instance: instance.clone(), source })?;
            let place = match level {
                Level::Version(version) => format!("application version {version}"),
                _ => scope.to_string(),
            };
            let found = schema.faults(&Value::Object(block.clone()));
            faults.extend(found.into_iter().map(|fault| format!("{instance} for {place} at {fault}")));
            described = Some((instance, description));
        }
        faults.truncate(FAULTS_MAX);
        if faults.is_empty() { Ok(()) } else { Err(Error::Unsatisfied(faults)) }
    }

    async fn write(
        &self,
        connection: &mut PgConnection,
        tenant: &TenantId,
        scope: &Scope,
        instance: &InstanceName,
        level: &Level,
        block: &Block,
    ) -> Result<(), Error> {
        let text = serde_json::to_string(block).map_err(Error::Stored)?;
        if text.len() > self.limits.block_bytes_max {
            let (bytes, max) = (text.len(), self.limits.block_bytes_max);
            return Err(Error::BlockTooLarge { instance: instance.to_string(), bytes, max });
        }
        let query = match scope.application() {
            None => sqlx::query(
                "INSERT INTO tenant_configs (tenant_id, service_instance_name, block) VALUES ($1, $2, $3::json)
                 ON CONFLICT ON CONSTRAINT tenant_configs_pkey DO UPDATE SET block = excluded.block, updated_at = now()",
            )
            .bind(tenant.as_str())
            .bind(instance.as_str())
            .bind(text),
            Some(application) => sqlx::query(
                "INSERT INTO service_configs (tenant_id, service_instance_name, block, application_name, app_version_name)
                 VALUES ($1, $2, $3::json, $4, $5)
                 ON CONFLICT ON CONSTRAINT service_configs_pkey DO UPDATE SET block = excluded.block, updated_at = now()",
            )
            .bind(tenant.as_str())
            .bind(instance.as_str())
            .bind(text)
            .bind(application.as_str())
            .bind(column(level)),
        };
        query.execute(connection).await?;
        Ok(())
    }

    async fn check_size(
        &self,
        connection: &mut PgConnection,
        tenant: &TenantId,
        scope: &Scope,
    ) -> Result<(), Error> {
        let (query, owner, max, key) = match scope.application() {
            None => (
                "SELECT coalesce(sum(octet_length(block::text)), 0)::bigint FROM tenant_configs WHERE tenant_id = $1",
                tenant.as_str(),
                self.limits.tenant_config_bytes_max,
                "tekton.tenant_config_bytes_max",
            ),
            Some(application) => (
                "SELECT coalesce(sum(octet_length(block::text)), 0)::bigint FROM service_configs WHERE application_name = $1",
                application.as_str(),
                self.limits.application_config_bytes_max,
                "tekton.application_config_bytes_max",
            ),
        };
        let bytes: i64 = sqlx::query_scalar(query).bind(owner).fetch_one(connection).await?;
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        if bytes > max {
            let owner = match scope.application() {
                None => format!("tenant {tenant}"),
                Some(application) => format!("application {application}"),
            };
            return Err(Error::ConfigTooLarge { owner, bytes, max, key });
        }
        Ok(())
    }
}

fn column(level: &Level) -> &str {
    match level {
        Level::Tenant | Level::Application => APPLICATION_LEVEL,
        Level::Version(name) => name.as_str(),
    }
}

async fn remove(
    connection: &mut PgConnection,
    tenant: &TenantId,
    scope: &Scope,
    instance: &InstanceName,
    level: &Level,
) -> Result<(), Error> {
    let query = match scope.application() {
        None => sqlx::query("DELETE FROM tenant_configs WHERE tenant_id = $1 AND service_instance_name = $2")
            .bind(tenant.as_str())
            .bind(instance.as_str()),
        Some(application) => sqlx::query(
            "DELETE FROM service_configs WHERE tenant_id = $1 AND service_instance_name = $2
             AND application_name = $3 AND app_version_name = $4",
        )
        .bind(tenant.as_str())
        .bind(instance.as_str())
        .bind(application.as_str())
        .bind(column(level)),
    };
    query.execute(connection).await?;
    Ok(())
}
