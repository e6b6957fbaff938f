//! What credentials lead to: one look into one index each.

use chrono::{DateTime, Utc};
use ids::TenantId;
use rest::Role;
use sqlx::FromRow;
use uuid::Uuid;

use super::{GrantsColumn, Store, grants, role};
use crate::domain::Grants;
use crate::error::Error;
use crate::secret::Sha256Digest;
use crate::token::SubjectKind;

/// A user or API key, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Principal {
    pub(crate) kind: SubjectKind,
    pub(crate) tenant: TenantId,
    pub(crate) tenant_enabled: bool,
    /// The id of the user or key.
    pub(crate) subject: String,
    pub(crate) name: String,
    pub(crate) role: Option<Role>,
    pub(crate) grants: Grants,
    /// A user that is enabled, a key that is not revoked.
    pub(crate) enabled: bool,
    /// The version of the user's tokens; 0 for a key.
    pub(crate) token_version: i32,
    pub(crate) expires_at: Option<DateTime<Utc>>,
    /// Whether the use of the key should be noted.
    pub(crate) is_use_due: bool,
}

/// Whether a tenant's people are let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TenantState {
    Unknown,
    Disabled,
    Enabled,
}

#[derive(FromRow)]
struct PrincipalRow {
    subject: String,
    tenant_id: String,
    tenant_enabled: bool,
    name: String,
    role: Option<String>,
    enabled: bool,
    token_version: i32,
    expires_at: Option<DateTime<Utc>>,
    is_use_due: bool,
    grants: GrantsColumn,
}

impl PrincipalRow {
    fn read(self, kind: SubjectKind) -> Result<Principal, Error> {
        let tenant = TenantId::parse(&self.tenant_id)
            .map_err(|_| Error::Stored("the id of a tenant breaks its rule"))?;
        Ok(Principal {
            kind,
            tenant,
            tenant_enabled: self.tenant_enabled,
            subject: self.subject,
            name: self.name,
            role: role(self.role.as_deref()),
            grants: grants(self.grants),
            enabled: self.enabled,
            token_version: self.token_version,
            expires_at: self.expires_at,
            is_use_due: self.is_use_due,
        })
    }
}

impl Store {
    /// A user, whatever the tenant: whose it is, is the answer.
    pub(crate) async fn user_principal(&self, user: Uuid) -> Result<Option<Principal>, Error> {
        let row: Option<PrincipalRow> = sqlx::query_as(
            "SELECT user_id::text AS subject, u.tenant_id, t.enabled AS tenant_enabled, u.name, u.role, u.enabled,
                 u.token_version, NULL::timestamptz AS expires_at, false AS is_use_due, grants
             FROM users_with_grants u JOIN tenants t USING (tenant_id) WHERE u.user_id = $1 AND t.deleted_at IS NULL",
        )
        .bind(user)
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| row.read(SubjectKind::User)).transpose()
    }

    /// The API key of a digest.
    pub(crate) async fn api_key_principal(&self, hash: &Sha256Digest) -> Result<Option<Principal>, Error> {
        let row: Option<PrincipalRow> = sqlx::query_as(
            "SELECT key_id AS subject, k.tenant_id, t.enabled AS tenant_enabled, k.name, k.role,
                 k.revoked_at IS NULL AS enabled, 0 AS token_version, k.expires_at,
                 coalesce(last_used_at <= now() - interval '1 minute', true) AS is_use_due, grants
             FROM api_keys_with_grants k JOIN tenants t USING (tenant_id) WHERE k.key_hash = $1 AND t.deleted_at IS NULL",
        )
        .bind(hash.as_slice())
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| row.read(SubjectKind::ApiKey)).transpose()
    }

    /// The API key of an id, for tokens that were given for it.
    pub(crate) async fn api_key_principal_of(&self, id: &str) -> Result<Option<Principal>, Error> {
        let row: Option<PrincipalRow> = sqlx::query_as(
            "SELECT key_id AS subject, k.tenant_id, t.enabled AS tenant_enabled, k.name, k.role,
                 k.revoked_at IS NULL AS enabled, 0 AS token_version, k.expires_at, false AS is_use_due, grants
             FROM api_keys_with_grants k JOIN tenants t USING (tenant_id) WHERE k.key_id = $1 AND t.deleted_at IS NULL",
        )
        .bind(id)
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| row.read(SubjectKind::ApiKey)).transpose()
    }

    /// Whether a tenant's people are let in.
    pub(crate) async fn tenant_state(&self, tenant: &TenantId) -> Result<TenantState, Error> {
        let enabled: Option<bool> =
            sqlx::query_scalar("SELECT enabled FROM tenants WHERE tenant_id = $1 AND deleted_at IS NULL")
                .bind(tenant.as_str())
                .fetch_optional(&self.pool)
                .await?;
        Ok(match enabled {
            None => TenantState::Unknown,
            Some(false) => TenantState::Disabled,
            Some(true) => TenantState::Enabled,
        })
    }
}
