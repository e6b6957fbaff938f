//! Revocations that are still to be told.

use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::Store;
use crate::error::Error;

/// After this time without having come back, an event is published again.
const REPEAT_AFTER_MS: i64 = 3_000;
/// Revocations that are told again in one go.
const DUE_MAX: i64 = 1_000;

/// Tokens of one endpoint that became useless.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub(crate) struct Revocation {
    pub(crate) revocation_id: Uuid,
    pub(crate) correlation_id: String,
    pub(crate) application_name: String,
    pub(crate) endpoint_id: String,
    pub(crate) token_ids: Vec<Uuid>,
}

impl Revocation {
    pub(super) fn new(
        correlation_id: &str,
        application_name: String,
        endpoint_id: String,
        token_ids: Vec<Uuid>,
    ) -> Self {
        let correlation_id = correlation_id.to_owned();
        Self { revocation_id: Uuid::now_v7(), correlation_id, application_name, endpoint_id, token_ids }
    }

    /// Makes sure that it is told also if this process dies after the commit.
    pub(super) async fn remember(&self, connection: &mut PgConnection) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO revocations (revocation_id, correlation_id, application_name, endpoint_id, token_ids, due_at)
             VALUES ($1, $2, $3, $4, $5, now() + $6 * interval '1 millisecond')",
        )
        .bind(self.revocation_id)
        .bind(&self.correlation_id)
        .bind(&self.application_name)
        .bind(&self.endpoint_id)
        .bind(&self.token_ids)
        .bind(REPEAT_AFTER_MS)
        .execute(connection)
        .await?;
        Ok(())
    }
}

impl Store {
    /// Revocations that must be told again now. They are not due again for a while, so that replicas share them.
    pub(crate) async fn take_due_revocations(&self) -> Result<Vec<Revocation>, Error> {
        let due = sqlx::query_as(
            "UPDATE revocations SET due_at = now() + $2 * interval '1 millisecond'
             WHERE revocation_id IN (
                 SELECT revocation_id FROM revocations WHERE due_at <= now() ORDER BY due_at LIMIT $1
                 FOR UPDATE SKIP LOCKED)
             RETURNING revocation_id, correlation_id, application_name, endpoint_id, token_ids",
        )
        .bind(DUE_MAX)
        .bind(REPEAT_AFTER_MS)
        .fetch_all(&self.pool)
        .await?;
        Ok(due)
    }

    /// Forgets revocations that everybody has heard of who listens.
    pub(crate) async fn forget_revocations(&self, told: &[Uuid]) -> Result<(), Error> {
        sqlx::query("DELETE FROM revocations WHERE revocation_id = ANY($1)")
            .bind(told)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}
