//! Events that are still to be sent.

use sqlx::{FromRow, PgConnection, Postgres, Transaction};
use uuid::Uuid;

use super::{Store, Topic};
use crate::error::Error;

/// An event that is still to be sent.
#[derive(Debug, Clone, FromRow)]
pub(crate) struct Announcement {
    announcement_id: i64,
    #[sqlx(try_from = "String", rename = "kind")]
    pub(crate) topic: Topic,
    pub(crate) tenant_id: String,
    /// None for authorities.
    pub(crate) credentials_id: Option<Uuid>,
    pub(crate) correlation_id: String,
}

/// Some of them, kept from other replicas until they are sent or the batch is dropped.
pub(crate) struct Batch {
    transaction: Transaction<'static, Postgres>,
    pub(crate) announcements: Vec<Announcement>,
}

impl Batch {
    /// They were sent.
    pub(crate) async fn done(mut self) -> Result<(), Error> {
        let ids: Vec<i64> = self.announcements.iter().map(|waiting| waiting.announcement_id).collect();
        let connection: &mut PgConnection = &mut self.transaction;
        sqlx::query("DELETE FROM announcements WHERE announcement_id = ANY($1)")
            .bind(&ids)
            .execute(connection)
            .await?;
        self.transaction.commit().await?;
        Ok(())
    }
}

impl Store {
    /// The oldest events that no other replica is sending.
    pub(crate) async fn announcements(&self, max: i64) -> Result<Batch, Error> {
        let mut transaction = self.pool.begin().await?;
        let announcements = sqlx::query_as(
            "SELECT announcement_id, kind, tenant_id, credentials_id, correlation_id FROM announcements
             ORDER BY announcement_id LIMIT $1 FOR UPDATE SKIP LOCKED",
        )
        .bind(max)
        .fetch_all(&mut *transaction)
        .await?;
        Ok(Batch { transaction, announcements })
    }
}
