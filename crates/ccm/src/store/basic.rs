//! Basic credentials.

use chrono::{DateTime, Utc};
use ids::TenantId;
use serde::Serialize;
use sqlx::FromRow;
use store::ConstraintExt as _;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Change, Counted, Credentials, Store, Topic, announce, get};
use crate::error::Error;
use crate::password::{Hash, Scheme};
use crate::state::State;

/// A user name, without its password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema, FromRow)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Basic {
    #[sqlx(rename = "credentials_id")]
    pub(crate) id: Uuid,
    /// Without the `@<tenant>` that a device appends.
    pub(crate) username: String,
    #[sqlx(try_from = "String")]
    pub(crate) state: State,
    #[sqlx(rename = "created_at")]
    pub(crate) created_date: DateTime<Utc>,
    /// When the state or the password last changed.
    #[sqlx(rename = "updated_at")]
    pub(crate) updated_date: DateTime<Utc>,
    /// To the minute or so.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[sqlx(rename = "last_use_at")]
    pub(crate) last_use_date: Option<DateTime<Utc>>,
}

impl Credentials for Basic {
    const COUNTED: Counted = Counted::Basic;
    const TOPIC: Topic = Topic::Basic;
    const COLUMNS: &'static str = "credentials_id, username, state, created_at, updated_at, last_use_at";
}

/// What a user name leads to.
#[derive(FromRow)]
pub(crate) struct Found {
    pub(crate) credentials_id: Uuid,
    #[sqlx(try_from = "String")]
    scheme: Scheme,
    password_hash: String,
    #[sqlx(try_from = "String")]
    pub(crate) state: State,
    pub(crate) last_use_at: Option<DateTime<Utc>>,
}

impl Found {
    pub(crate) fn hash(&self) -> Hash {
        Hash { scheme: self.scheme, text: self.password_hash.clone() }
    }
}

impl Store {
    /// Keeps new credentials.
    pub(crate) async fn create_basic(
        &self,
        tenant: &TenantId,
        id: Uuid,
        username: &str,
        hash: &Hash,
    ) -> Result<Basic, Error> {
        let mut transaction = self.pool.begin().await?;
        self.reserve(&mut transaction, tenant, Counted::Basic).await?;
        let inserted = sqlx::query(
            "INSERT INTO basic_credentials (credentials_id, tenant_id, username, scheme, password_hash, state)
             VALUES ($1, $2, $3, $4, $5, 'Inactive')",
        )
        .bind(id)
        .bind(tenant.as_str())
        .bind(username)
        .bind(hash.scheme.as_str())
        .bind(&hash.text)
        .execute(&mut *transaction)
        .await;
        inserted.on_constraint("basic_credentials_username_key", || Error::UsernameTaken)?;
        let created = get(&mut transaction, tenant, id).await?;
        transaction.commit().await?;
        Ok(created)
    }

    /// What a user name leads to. The hot path: one look into one index.
    pub(crate) async fn find_basic(&self, tenant: &TenantId, username: &str) -> Result<Option<Found>, Error> {
        let found = sqlx::query_as(
            "SELECT credentials_id, scheme, password_hash, state, last_use_at FROM basic_credentials
             WHERE tenant_id = $1 AND username = $2",
        )
        .bind(tenant.as_str())
        .bind(username)
        .fetch_optional(&self.pool)
        .await?;
        Ok(found)
    }

    /// Replaces a password. Whoever is connected with the old one is to be disconnected.
    pub(crate) async fn set_password(
        &self,
        change: Change<'_>,
        id: Uuid,
        hash: &Hash,
    ) -> Result<Basic, Error> {
        let mut transaction = self.pool.begin().await?;
        let updated = sqlx::query(
            "UPDATE basic_credentials SET scheme = $3, password_hash = $4, updated_at = now()
             WHERE credentials_id = $1 AND tenant_id = $2 AND state <> 'Revoked'",
        )
        .bind(id)
        .bind(change.tenant.as_str())
        .bind(hash.scheme.as_str())
        .bind(&hash.text)
        .execute(&mut *transaction)
        .await?;
        let after: Basic = get(&mut transaction, change.tenant, id).await?;
        if updated.rows_affected() == 0 {
            return Err(Error::Revoked);
        }
        announce(&mut transaction, change, Topic::Basic, Some(id)).await?;
        transaction.commit().await?;
        Ok(after)
    }
}
