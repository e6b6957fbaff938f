//! API keys.

use chrono::{DateTime, Utc};
use ids::TenantId;
use rest::Role;
use sqlx::{FromRow, PgConnection};
use store::ConstraintExt as _;

use super::{GrantsColumn, Store, grant_columns, grants, lock_tenant, role};
use crate::domain::{ApiKey, Grants};
use crate::error::Error;
use crate::secret::Sha256Digest;

#[derive(FromRow)]
struct ApiKeyRow {
    key_id: String,
    name: String,
    role: Option<String>,
    created_at: DateTime<Utc>,
    created_by: String,
    expires_at: Option<DateTime<Utc>>,
    last_used_at: Option<DateTime<Utc>>,
    revoked_at: Option<DateTime<Utc>>,
    grants: GrantsColumn,
}

impl From<ApiKeyRow> for ApiKey {
    fn from(row: ApiKeyRow) -> Self {
        Self {
            id: row.key_id,
            name: row.name,
            role: role(row.role.as_deref()),
            grants: grants(row.grants),
            created_date: row.created_at,
            created_by: row.created_by,
            expires_at: row.expires_at,
            last_used_at: row.last_used_at,
            revoked_at: row.revoked_at,
        }
    }
}

/// An API key to make.
pub(crate) struct NewApiKeyRow<'a> {
    pub(crate) id: &'a str,
    pub(crate) hash: Sha256Digest,
    pub(crate) tenant: &'a TenantId,
    pub(crate) name: &'a str,
    pub(crate) role: Option<Role>,
    pub(crate) grants: &'a Grants,
    pub(crate) created_by: &'a str,
    pub(crate) expires_at: Option<DateTime<Utc>>,
}

impl NewApiKeyRow<'_> {
    pub(super) async fn insert(&self, connection: &mut PgConnection) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO api_keys (key_id, tenant_id, name, role, key_hash, created_by, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(self.id)
        .bind(self.tenant.as_str())
        .bind(self.name)
        .bind(self.role.map(Role::as_str))
        .bind(self.hash.as_slice())
        .bind(self.created_by)
        .bind(self.expires_at)
        .execute(&mut *connection)
        .await
        .on_constraint("api_keys_hash_key", || Error::ApiKeyTaken)?;
        let (names, roles) = grant_columns(self.grants);
        sqlx::query(
            "INSERT INTO api_key_grants (key_id, application_name, role)
             SELECT $1, * FROM unnest($2::text[], $3::text[])",
        )
        .bind(self.id)
        .bind(names)
        .bind(roles)
        .execute(connection)
        .await?;
        Ok(())
    }
}

async fn read_key(connection: &mut PgConnection, tenant: &TenantId, id: &str) -> Result<ApiKey, Error> {
    let row: Option<ApiKeyRow> = sqlx::query_as(
        "SELECT key_id, name, role, created_at, created_by, expires_at, last_used_at, revoked_at, grants
         FROM api_keys_with_grants WHERE key_id = $1 AND tenant_id = $2",
    )
    .bind(id)
    .bind(tenant.as_str())
    .fetch_optional(connection)
    .await?;
    row.map(ApiKey::from).ok_or_else(|| Error::UnknownApiKey(id.to_owned()))
}

impl Store {
    /// Keeps a new key.
    pub(crate) async fn create_api_key(&self, new: NewApiKeyRow<'_>) -> Result<ApiKey, Error> {
        let mut transaction = self.pool.begin().await?;
        lock_tenant(&mut transaction, new.tenant).await?;
        let count: i64 =
            sqlx::query_scalar("SELECT count(*) FROM api_keys WHERE tenant_id = $1 AND revoked_at IS NULL")
                .bind(new.tenant.as_str())
                .fetch_one(&mut *transaction)
                .await?;
        if count >= self.limits.api_keys {
            return Err(Error::TooManyApiKeys(self.limits.api_keys));
        }
        new.insert(&mut transaction).await?;
        let key = read_key(&mut transaction, new.tenant, new.id).await?;
        transaction.commit().await?;
        Ok(key)
    }

    /// A page of the tenant's keys, the newest first, and how many there are in all.
    pub(crate) async fn api_keys(
        &self,
        tenant: &TenantId,
        offset: i64,
        limit: i64,
    ) -> Result<(i64, Vec<ApiKey>), Error> {
        let total = sqlx::query_scalar("SELECT count(*) FROM api_keys WHERE tenant_id = $1")
            .bind(tenant.as_str())
            .fetch_one(&self.pool)
            .await?;
        let rows: Vec<ApiKeyRow> = sqlx::query_as(
            "SELECT key_id, name, role, created_at, created_by, expires_at, last_used_at, revoked_at, grants
             FROM api_keys_with_grants WHERE tenant_id = $1 ORDER BY created_at DESC, key_id OFFSET $2 LIMIT $3",
        )
        .bind(tenant.as_str())
        .bind(offset)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        Ok((total, rows.into_iter().map(ApiKey::from).collect()))
    }

    /// One key of the tenant.
    pub(crate) async fn api_key(&self, tenant: &TenantId, id: &str) -> Result<ApiKey, Error> {
        read_key(&mut *self.pool.acquire().await?, tenant, id).await
    }

    /// Makes a key useless. To have been so already is fine.
    pub(crate) async fn revoke_api_key(&self, tenant: &TenantId, id: &str) -> Result<(), Error> {
        let done = sqlx::query(
            "UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE key_id = $1 AND tenant_id = $2",
        )
        .bind(id)
        .bind(tenant.as_str())
        .execute(&self.pool)
        .await?;
        if done.rows_affected() == 0 { Err(Error::UnknownApiKey(id.to_owned())) } else { Ok(()) }
    }

    /// Notes that a key is used, unless that was noted within the last minute.
    pub(crate) async fn api_key_used(&self, id: &str) -> Result<(), Error> {
        sqlx::query(
            "UPDATE api_keys SET last_used_at = now()
             WHERE key_id = $1 AND (last_used_at IS NULL OR last_used_at <= now() - interval '1 minute')",
        )
        .bind(id)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Deletes up to `limit` keys that were revoked or have expired long ago.
    pub(crate) async fn delete_old_api_keys(&self, days: i32, limit: i64) -> Result<u64, Error> {
        let done = sqlx::query(
            "DELETE FROM api_keys WHERE key_id IN (
                 SELECT key_id FROM api_keys
                 WHERE least(revoked_at, expires_at) < now() - make_interval(days => $1) LIMIT $2)",
        )
        .bind(days)
        .bind(limit)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }
}
