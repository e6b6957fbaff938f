//! Moving tokens from status to status, and deleting them.

use chrono::{DateTime, Utc};
use ids::{ApplicationName, EndpointId, TenantId};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::{Found, Revocation, Store, Token};
use crate::error::Error;
use crate::secret::TokenHash;
use crate::status::Status;

/// Which token to move or delete.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Selector<'a> {
    /// By its text.
    Hash(&'a ApplicationName, &'a TokenHash),
    /// By its id.
    Id(&'a TenantId, &'a EndpointId, Uuid),
}

/// A token that was moved: as it is now, and what to tell.
#[derive(Debug)]
pub(crate) struct Moved {
    pub(crate) token: Token,
    /// `None` unless the token is useless now.
    pub(crate) revocation: Option<Revocation>,
}

#[derive(FromRow)]
struct Deleted {
    application_name: String,
    token_id: Uuid,
    #[sqlx(try_from = "String")]
    status: Status,
}

impl Store {
    /// Moves a token to another status; to have that status already is fine.
    ///
    /// The row is locked, so of two moves at once the second is judged by what the first has made of the token.
    pub(crate) async fn transit(
        &self,
        correlation_id: &str,
        selector: Selector<'_>,
        target: Status,
    ) -> Result<Moved, Error> {
        let mut transaction = self.pool.begin().await?;
        let before = lock(&mut transaction, selector).await?.ok_or(Error::NoSuchToken)?;
        if before.status != target && !before.status.leads_to(target) {
            return Err(Error::Transition { from: before.status, to: target });
        }
        let token: Token = sqlx::query_as(
            "UPDATE tokens SET status = $2, updated_at = CASE WHEN status = $2 THEN updated_at ELSE now() END
             WHERE token_id = $1 RETURNING token_id, status, created_at, application_name, updated_at",
        )
        .bind(before.token_id)
        .bind(target.as_str())
        .fetch_one(&mut *transaction)
        .await?;
        // Also when it was so already: who repeats it has seen no effect.
        let revocation = match target.is_valid() {
            true => None,
            false => {
                let (application, endpoint_id) = (token.application_name.clone(), before.endpoint_id);
                let revocation =
                    Revocation::new(correlation_id, application, endpoint_id, vec![before.token_id]);
                revocation.remember(&mut transaction).await?;
                Some(revocation)
            }
        };
        transaction.commit().await?;
        Ok(Moved { token, revocation })
    }

    /// Deletes a token. Tells what to tell if it could be used.
    pub(crate) async fn delete(
        &self,
        correlation_id: &str,
        selector: Selector<'_>,
    ) -> Result<Option<Revocation>, Error> {
        let mut transaction = self.pool.begin().await?;
        let before = lock(&mut transaction, selector).await?.ok_or(Error::NoSuchToken)?;
        let deleted: Vec<Deleted> = sqlx::query_as(
            "DELETE FROM tokens WHERE token_id = $1 RETURNING application_name, token_id, status",
        )
        .bind(before.token_id)
        .fetch_all(&mut *transaction)
        .await?;
        let revoked = revoke(&mut transaction, correlation_id, &before.endpoint_id, deleted).await?;
        transaction.commit().await?;
        Ok(revoked)
    }

    /// Deletes all tokens of an endpoint of a tenant. None is fine.
    pub(crate) async fn delete_of_endpoint(
        &self,
        correlation_id: &str,
        tenant: &TenantId,
        endpoint_id: &EndpointId,
    ) -> Result<Option<Revocation>, Error> {
        let mut transaction = self.pool.begin().await?;
        let deleted: Vec<Deleted> = sqlx::query_as(
            "DELETE FROM tokens WHERE endpoint_id = $1 AND tenant_id = $2
             RETURNING application_name, token_id, status",
        )
        .bind(endpoint_id.as_str())
        .bind(tenant.as_str())
        .fetch_all(&mut *transaction)
        .await?;
        let revoked = revoke(&mut transaction, correlation_id, endpoint_id.as_str(), deleted).await?;
        transaction.commit().await?;
        Ok(revoked)
    }

    /// Deletes the tokens that an endpoint had when it was deleted; an endpoint of the same id may have been
    /// made since.
    pub(crate) async fn delete_made_until(
        &self,
        correlation_id: &str,
        endpoint_id: &EndpointId,
        until: DateTime<Utc>,
    ) -> Result<Option<Revocation>, Error> {
        let mut transaction = self.pool.begin().await?;
        let deleted: Vec<Deleted> = sqlx::query_as(
            "DELETE FROM tokens WHERE endpoint_id = $1 AND created_at <= $2
             RETURNING application_name, token_id, status",
        )
        .bind(endpoint_id.as_str())
        .bind(until)
        .fetch_all(&mut *transaction)
        .await?;
        let revoked = revoke(&mut transaction, correlation_id, endpoint_id.as_str(), deleted).await?;
        transaction.commit().await?;
        Ok(revoked)
    }
}

async fn lock(connection: &mut PgConnection, selector: Selector<'_>) -> Result<Option<Found>, Error> {
    let query = match selector {
        Selector::Hash(application, hash) => sqlx::query_as(
            "SELECT token_id, endpoint_id, status FROM tokens WHERE application_name = $1 AND token_hash = $2
             FOR UPDATE",
        )
        .bind(application.as_str())
        .bind(hash.as_slice()),
        Selector::Id(tenant, endpoint_id, token_id) => sqlx::query_as(
            "SELECT token_id, endpoint_id, status FROM tokens
             WHERE tenant_id = $1 AND endpoint_id = $2 AND token_id = $3 FOR UPDATE",
        )
        .bind(tenant.as_str())
        .bind(endpoint_id.as_str())
        .bind(token_id),
    };
    Ok(query.fetch_optional(connection).await?)
}

/// Remembers what to tell of an endpoint's tokens that were deleted: those that could be used.
async fn revoke(
    connection: &mut PgConnection,
    correlation_id: &str,
    endpoint_id: &str,
    deleted: Vec<Deleted>,
) -> Result<Option<Revocation>, Error> {
    let Some(application) = deleted.first().map(|token| token.application_name.clone()) else {
        return Ok(None);
    };
    let usable: Vec<Uuid> =
        deleted.iter().filter(|token| token.status.is_valid()).map(|token| token.token_id).collect();
    if usable.is_empty() {
        return Ok(None);
    }
    let revocation = Revocation::new(correlation_id, application, endpoint_id.to_owned(), usable);
    revocation.remember(connection).await?;
    Ok(Some(revocation))
}
