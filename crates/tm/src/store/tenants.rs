//! Tenants.

use chrono::{DateTime, Utc};
use ids::TenantId;
use sqlx::FromRow;
use store::ConstraintExt as _;

use super::users::NewUser;
use super::{Store, containing, lock_tenant};
use crate::domain::Tenant;
use crate::error::Error;

#[derive(FromRow)]
struct TenantRow {
    tenant_id: String,
    name: String,
    enabled: bool,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl From<TenantRow> for Tenant {
    fn from(row: TenantRow) -> Self {
        Self {
            tenant_id: row.tenant_id,
            name: row.name,
            enabled: row.enabled,
            created_date: row.created_at,
            updated_date: row.updated_at,
        }
    }
}

/// A tenant to make.
pub(crate) struct NewTenant<'a> {
    pub(crate) tenant: &'a TenantId,
    pub(crate) name: &'a str,
    pub(crate) enabled: bool,
    /// Its first user.
    pub(crate) admin: Option<NewUser<'a>>,
}

/// What to change; none: stays as it is.
#[derive(Default)]
pub(crate) struct TenantChange<'a> {
    pub(crate) name: Option<&'a str>,
    pub(crate) enabled: Option<bool>,
}

/// Which tenants to list.
#[derive(Default)]
pub(crate) struct TenantFilter<'a> {
    pub(crate) tenant: Option<&'a str>,
    /// A part of the name, whatever the case.
    pub(crate) name: Option<&'a str>,
}

impl Store {
    /// Makes a tenant, with its first user if one is given.
    pub(crate) async fn create_tenant(&self, new: NewTenant<'_>) -> Result<Tenant, Error> {
        let mut transaction = self.pool.begin().await?;
        let row: Option<TenantRow> = sqlx::query_as(
            "INSERT INTO tenants (tenant_id, name, enabled)
             SELECT $1, $2, $3 WHERE (SELECT count(*) FROM tenants WHERE deleted_at IS NULL) < $4
             RETURNING tenant_id, name, enabled, created_at, updated_at",
        )
        .bind(new.tenant.as_str())
        .bind(new.name)
        .bind(new.enabled)
        .bind(self.limits.tenants)
        .fetch_optional(&mut *transaction)
        .await
        .on_constraint("tenants_pkey", || Error::TenantTaken(new.tenant.clone()))?;
        let row = row.ok_or(Error::TooManyTenants(self.limits.tenants))?;
        if let Some(admin) = new.admin {
            admin.insert(&mut transaction).await?;
        }
        transaction.commit().await?;
        Ok(row.into())
    }

    /// A page of the tenants, and how many there are in all.
    pub(crate) async fn tenants(
        &self,
        filter: &TenantFilter<'_>,
        offset: i64,
        limit: i64,
    ) -> Result<(i64, Vec<Tenant>), Error> {
        let name = filter.name.map(containing);
        let total = sqlx::query_scalar(
            "SELECT count(*) FROM tenants
             WHERE deleted_at IS NULL AND ($1::text IS NULL OR tenant_id = $1) AND ($2::text IS NULL OR name ILIKE $2)",
        )
        .bind(filter.tenant)
        .bind(name.as_deref())
        .fetch_one(&self.pool)
        .await?;
        let rows: Vec<TenantRow> = sqlx::query_as(
            "SELECT tenant_id, name, enabled, created_at, updated_at FROM tenants
             WHERE deleted_at IS NULL AND ($1::text IS NULL OR tenant_id = $1) AND ($2::text IS NULL OR name ILIKE $2)
             ORDER BY tenant_id OFFSET $3 LIMIT $4",
        )
        .bind(filter.tenant)
        .bind(name.as_deref())
        .bind(offset)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        Ok((total, rows.into_iter().map(Tenant::from).collect()))
    }

    /// One tenant.
    pub(crate) async fn tenant(&self, tenant: &TenantId) -> Result<Tenant, Error> {
        let row: Option<TenantRow> = sqlx::query_as(
            "SELECT tenant_id, name, enabled, created_at, updated_at FROM tenants
             WHERE tenant_id = $1 AND deleted_at IS NULL",
        )
        .bind(tenant.as_str())
        .fetch_optional(&self.pool)
        .await?;
        row.map(Tenant::from).ok_or_else(|| Error::UnknownTenant(tenant.clone()))
    }

    /// Changes what is given.
    pub(crate) async fn update_tenant(
        &self,
        tenant: &TenantId,
        change: &TenantChange<'_>,
    ) -> Result<Tenant, Error> {
        let row: Option<TenantRow> = sqlx::query_as(
            "UPDATE tenants SET name = coalesce($2, name), enabled = coalesce($3, enabled), updated_at = now()
             WHERE tenant_id = $1 AND deleted_at IS NULL
             RETURNING tenant_id, name, enabled, created_at, updated_at",
        )
        .bind(tenant.as_str())
        .bind(change.name)
        .bind(change.enabled)
        .fetch_optional(&self.pool)
        .await?;
        row.map(Tenant::from).ok_or_else(|| Error::UnknownTenant(tenant.clone()))
    }

    /// Deletes a tenant with its users and API keys. Its id stays, so that it is never given again. A tenant whose
    /// deletion the other services were not told of is deleted once more: whoever asked got no answer then.
    pub(crate) async fn delete_tenant(&self, tenant: &TenantId) -> Result<(), Error> {
        let mut transaction = self.pool.begin().await?;
        match lock_tenant(&mut transaction, tenant).await {
            Err(Error::UnknownTenant(_)) if self.is_unannounced(tenant).await? => return Ok(()),
            locked => locked?,
        }
        for statement in [
            "DELETE FROM users WHERE tenant_id = $1",
            "DELETE FROM api_keys WHERE tenant_id = $1",
            "UPDATE tenants SET deleted_at = now(), updated_at = now(), enabled = false WHERE tenant_id = $1",
        ] {
            sqlx::query(statement).bind(tenant.as_str()).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    async fn is_unannounced(&self, tenant: &TenantId) -> Result<bool, Error> {
        let unannounced = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM tenants
                 WHERE tenant_id = $1 AND deleted_at IS NOT NULL AND unregistered_at IS NULL)",
        )
        .bind(tenant.as_str())
        .fetch_one(&self.pool)
        .await?;
        Ok(unannounced)
    }

    /// Deleted tenants of which the other services were not told.
    pub(crate) async fn unannounced_tenants(&self, limit: i64) -> Result<Vec<TenantId>, Error> {
        let ids: Vec<String> = sqlx::query_scalar(
            "SELECT tenant_id FROM tenants WHERE deleted_at IS NOT NULL AND unregistered_at IS NULL
             ORDER BY tenant_id LIMIT $1",
        )
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        read_ids(&ids)
    }

    /// Tenants whose deletion is to be told again: a minute after it, then after twice as long each time, at least every
    /// six hours, for thirty days. Calls that are let in before everybody has heard make things that must go, too.
    pub(crate) async fn tenants_to_announce_again(&self, limit: i64) -> Result<Vec<TenantId>, Error> {
        let ids: Vec<String> = sqlx::query_scalar(
            "SELECT tenant_id FROM tenants WHERE deleted_at > now() - interval '30 days' AND unregistered_at
                 + greatest(interval '1 minute', least(unregistered_at - deleted_at, interval '6 hours')) <= now()
             ORDER BY unregistered_at LIMIT $1",
        )
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        read_ids(&ids)
    }

    /// Notes that the other services were told.
    pub(crate) async fn tenant_announced(&self, tenant: &TenantId) -> Result<(), Error> {
        sqlx::query(
            "UPDATE tenants SET unregistered_at = now() WHERE tenant_id = $1 AND deleted_at IS NOT NULL",
        )
        .bind(tenant.as_str())
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

fn read_ids(ids: &[String]) -> Result<Vec<TenantId>, Error> {
    let read =
        |id: &String| TenantId::parse(id).map_err(|_| Error::Stored("the id of a tenant breaks its rule"));
    ids.iter().map(read).collect()
}
