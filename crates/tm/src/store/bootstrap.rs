//! What the first start makes.

use ids::TenantId;

use super::Store;
use super::api_keys::NewApiKeyRow;
use super::users::NewUser;
use crate::error::Error;

/// A tenant with an administrator and an API key.
pub(crate) struct FirstTenant<'a> {
    pub(crate) tenant: &'a TenantId,
    pub(crate) admin: NewUser<'a>,
    pub(crate) api_key: NewApiKeyRow<'a>,
}

impl Store {
    /// Whether there is or was a tenant of that id.
    pub(crate) async fn tenant_existed(&self, tenant: &TenantId) -> Result<bool, Error> {
        let existed = sqlx::query_scalar("SELECT EXISTS (SELECT FROM tenants WHERE tenant_id = $1)")
            .bind(tenant.as_str())
            .fetch_one(&self.pool)
            .await?;
        Ok(existed)
    }

    /// Makes all of it, or nothing when the tenant exists or existed: what an administrator has changed since stays.
    pub(crate) async fn make_first_tenant(&self, first: FirstTenant<'_>) -> Result<bool, Error> {
        let mut transaction = self.pool.begin().await?;
        let made =
            sqlx::query("INSERT INTO tenants (tenant_id, name) VALUES ($1, $1) ON CONFLICT DO NOTHING")
                .bind(first.tenant.as_str())
                .execute(&mut *transaction)
                .await?;
        if made.rows_affected() == 0 {
            return Ok(false);
        }
        first.admin.insert(&mut transaction).await?;
        first.api_key.insert(&mut transaction).await?;
        transaction.commit().await?;
        Ok(true)
    }
}
