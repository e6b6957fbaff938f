//! The service's tables.

mod moves;
mod removals;
mod revocations;

use chrono::{DateTime, Utc};
use ids::{ApplicationName, EndpointId, TenantId, TokenId};
use serde::Serialize;
use sqlx::{FromRow, PgPool};
use utoipa::ToSchema;
use uuid::Uuid;

pub(crate) use moves::Selector;
pub(crate) use revocations::Revocation;

use crate::error::Error;
use crate::secret::TokenHash;
use crate::status::Status;

/// The migrations of the schema.
pub(crate) static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// Tokens in PostgreSQL. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Store {
    pool: PgPool,
    tokens_per_endpoint_max: i64,
}

/// A token as its owner may see it: without its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema, FromRow)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Token {
    #[sqlx(rename = "token_id")]
    pub(crate) endpoint_token_id: Uuid,
    #[sqlx(try_from = "String")]
    pub(crate) status: Status,
    #[sqlx(rename = "created_at")]
    pub(crate) created_date: DateTime<Utc>,
    pub(crate) application_name: String,
    /// When the status last changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[sqlx(rename = "updated_at")]
    pub(crate) update_date: Option<DateTime<Utc>>,
}

/// What a token leads to.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub(crate) struct Found {
    pub(crate) token_id: Uuid,
    pub(crate) endpoint_id: String,
    #[sqlx(try_from = "String")]
    pub(crate) status: Status,
}

/// Whose token to make.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    pub(crate) tenant: TenantId,
    pub(crate) application: ApplicationName,
    pub(crate) endpoint_id: EndpointId,
}

/// Which of an endpoint's tokens to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Empty: any.
    pub(crate) statuses: Vec<Status>,
    pub(crate) oldest_first: bool,
}

impl Store {
    pub(crate) fn new(pool: PgPool, tokens_per_endpoint_max: i64) -> Self {
        Self { pool, tokens_per_endpoint_max }
    }

    /// Keeps a new token. One that the same endpoint has and that was never used is given again when
    /// `repeatable`: the caller has lost the answer.
    pub(crate) async fn create(
        &self,
        owner: &Owner,
        hash: &TokenHash,
        repeatable: bool,
    ) -> Result<Token, Error> {
        let created: Option<Token> = sqlx::query_as(
            "INSERT INTO tokens (token_id, tenant_id, application_name, endpoint_id, token_hash, status)
             SELECT $1, $2, $3, $4, $5, 'Inactive'
             WHERE (SELECT count(*) FROM tokens WHERE endpoint_id = $4 AND status <> 'Revoked') < $6
             ON CONFLICT ON CONSTRAINT tokens_application_hash_key DO NOTHING
             RETURNING token_id, status, created_at, application_name, updated_at",
        )
        .bind(Uuid::now_v7())
        .bind(owner.tenant.as_str())
        .bind(owner.application.as_str())
        .bind(owner.endpoint_id.as_str())
        .bind(hash.as_slice())
        .bind(self.tokens_per_endpoint_max)
        .fetch_optional(&self.pool)
        .await?;
        if let Some(token) = created {
            return Ok(token);
        }
        let same: Option<(bool,)> = sqlx::query_as(
            "SELECT tenant_id = $3 AND endpoint_id = $4 AND status = 'Inactive' FROM tokens
             WHERE application_name = $1 AND token_hash = $2",
        )
        .bind(owner.application.as_str())
        .bind(hash.as_slice())
        .bind(owner.tenant.as_str())
        .bind(owner.endpoint_id.as_str())
        .fetch_optional(&self.pool)
        .await?;
        match same {
            None => Err(Error::TooManyTokens(self.tokens_per_endpoint_max)),
            Some((true,)) if repeatable => self.by_hash(owner, hash).await,
            Some(_) => Err(Error::TokenTaken),
        }
    }

    async fn by_hash(&self, owner: &Owner, hash: &TokenHash) -> Result<Token, Error> {
        let token = sqlx::query_as(
            "SELECT token_id, status, created_at, application_name, updated_at FROM tokens
             WHERE application_name = $1 AND token_hash = $2",
        )
        .bind(owner.application.as_str())
        .bind(hash.as_slice())
        .fetch_one(&self.pool)
        .await?;
        Ok(token)
    }

    /// What a token leads to. The hot path: one look into one index.
    pub(crate) async fn find(
        &self,
        application: &ApplicationName,
        hash: &TokenHash,
    ) -> Result<Option<Found>, Error> {
        let found = sqlx::query_as(
            "SELECT token_id, endpoint_id, status FROM tokens WHERE application_name = $1 AND token_hash = $2",
        )
        .bind(application.as_str())
        .bind(hash.as_slice())
        .fetch_optional(&self.pool)
        .await?;
        Ok(found)
    }

    /// Notes the first use of a token. Does nothing when it is not `Inactive` (any more).
    pub(crate) async fn activate(&self, token_id: Uuid) -> Result<(), Error> {
        sqlx::query("UPDATE tokens SET status = 'Active', updated_at = now() WHERE token_id = $1 AND status = 'Inactive'")
            .bind(token_id)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// A page of an endpoint's tokens, and how many there are in all.
    pub(crate) async fn tokens(
        &self,
        tenant: &TenantId,
        endpoint_id: &EndpointId,
        filter: &Filter,
        offset: i64,
        limit: i64,
    ) -> Result<(i64, Vec<Token>), Error> {
        let statuses: Vec<&str> = filter.statuses.iter().map(|status| status.as_str()).collect();
        let total: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM tokens
             WHERE endpoint_id = $1 AND tenant_id = $2 AND (cardinality($3::text[]) = 0 OR status = ANY($3))",
        )
        .bind(endpoint_id.as_str())
        .bind(tenant.as_str())
        .bind(&statuses)
        .fetch_one(&self.pool)
        .await?;
        let page = if filter.oldest_first {
            "SELECT token_id, status, created_at, application_name, updated_at FROM tokens
             WHERE endpoint_id = $1 AND tenant_id = $2 AND (cardinality($3::text[]) = 0 OR status = ANY($3))
             ORDER BY created_at, token_id OFFSET $4 LIMIT $5"
        } else {
            "SELECT token_id, status, created_at, application_name, updated_at FROM tokens
             WHERE endpoint_id = $1 AND tenant_id = $2 AND (cardinality($3::text[]) = 0 OR status = ANY($3))
             ORDER BY created_at DESC, token_id DESC OFFSET $4 LIMIT $5"
        };
        let tokens = sqlx::query_as(page)
            .bind(endpoint_id.as_str())
            .bind(tenant.as_str())
            .bind(&statuses)
            .bind(offset)
            .bind(limit)
            .fetch_all(&self.pool)
            .await?;
        Ok((total, tokens))
    }

    /// One token of an endpoint.
    pub(crate) async fn token(
        &self,
        tenant: &TenantId,
        endpoint_id: &EndpointId,
        token_id: &TokenId,
    ) -> Result<Token, Error> {
        let unknown = || Error::UnknownToken { endpoint_id: endpoint_id.clone(), token_id: token_id.clone() };
        let id: Uuid = token_id.as_str().parse().map_err(|_| unknown())?;
        let token: Option<Token> = sqlx::query_as(
            "SELECT token_id, status, created_at, application_name, updated_at FROM tokens
             WHERE token_id = $1 AND endpoint_id = $2 AND tenant_id = $3",
        )
        .bind(id)
        .bind(endpoint_id.as_str())
        .bind(tenant.as_str())
        .fetch_optional(&self.pool)
        .await?;
        token.ok_or_else(unknown)
    }

    /// The application of the tenant's endpoint, if the endpoint has any token.
    pub(crate) async fn application_of(
        &self,
        tenant: &TenantId,
        endpoint_id: &EndpointId,
    ) -> Result<Option<ApplicationName>, Error> {
        let name: Option<String> = sqlx::query_scalar(
            "SELECT application_name FROM tokens WHERE endpoint_id = $1 AND tenant_id = $2 LIMIT 1",
        )
        .bind(endpoint_id.as_str())
        .bind(tenant.as_str())
        .fetch_optional(&self.pool)
        .await?;
        Ok(name.map(|name| ApplicationName::parse(&name)).transpose()?)
    }
}
