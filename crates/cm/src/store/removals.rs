//! The tokens of tenants that were unregistered.

use std::collections::BTreeMap;

use ids::TenantId;
use sqlx::FromRow;
use uuid::Uuid;

use super::{Revocation, Store};
use crate::error::Error;
use crate::status::Status;

/// Tokens that are deleted in one transaction.
const BATCH: i64 = 500;

#[derive(FromRow)]
struct Row {
    token_id: Uuid,
    application_name: String,
    endpoint_id: String,
    #[sqlx(try_from = "String")]
    status: Status,
}

impl Store {
    /// Remembers that all tokens that a tenant has now must go.
    pub(crate) async fn remember_removal(&self, tenant: &TenantId) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO tenant_removals (tenant_id) VALUES ($1)
             ON CONFLICT ON CONSTRAINT tenant_removals_pkey DO UPDATE SET made_until = excluded.made_until",
        )
        .bind(tenant.as_str())
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Deletes some tokens of tenants that are to be removed. Tells what to tell; `None` when nothing is left
    /// to do. Replicas that do this at once share the work.
    pub(crate) async fn remove_some(&self, correlation_id: &str) -> Result<Option<Vec<Revocation>>, Error> {
        let mut transaction = self.pool.begin().await?;
        let rows: Vec<Row> = sqlx::query_as(
            "DELETE FROM tokens WHERE token_id IN (
                 SELECT token.token_id FROM tenant_removals AS removal
                 JOIN tokens AS token ON token.tenant_id = removal.tenant_id AND token.created_at <= removal.made_until
                 LIMIT $1 FOR UPDATE OF token SKIP LOCKED)
             RETURNING token_id, application_name, endpoint_id, status",
        )
        .bind(BATCH)
        .fetch_all(&mut *transaction)
        .await?;
        if rows.is_empty() {
            let waiting: i64 = sqlx::query_scalar(
                "WITH done AS (
                     DELETE FROM tenant_removals AS removal WHERE NOT EXISTS (
                         SELECT FROM tokens
                         WHERE tokens.tenant_id = removal.tenant_id AND tokens.created_at <= removal.made_until)
                     RETURNING 1)
                 SELECT (SELECT count(*) FROM tenant_removals) - (SELECT count(*) FROM done)",
            )
            .fetch_one(&mut *transaction)
            .await?;
            transaction.commit().await?;
            return Ok((waiting > 0).then(Vec::new));
        }
        let mut usable: BTreeMap<(String, String), Vec<Uuid>> = BTreeMap::new();
        for row in rows.into_iter().filter(|row| row.status.is_valid()) {
            usable.entry((row.application_name, row.endpoint_id)).or_default().push(row.token_id);
        }
        let mut revocations = Vec::with_capacity(usable.len());
        for ((application, endpoint_id), token_ids) in usable {
            let revocation = Revocation::new(correlation_id, application, endpoint_id, token_ids);
            revocation.remember(&mut transaction).await?;
            revocations.push(revocation);
        }
        transaction.commit().await?;
        Ok(Some(revocations))
    }
}
