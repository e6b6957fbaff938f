//! What clients published lately.
//!
//! MQTT sends a message again, with the DUP flag and the packet id of the first time, when its acknowledgement was lost. So that
//! it is not a second command, or the result of the next one, what it became is kept for a while. It is written down before
//! anything is done, so that whoever is killed in between finds the same when the message comes again.

use std::time::Duration;

use extension::TopicPublication;
use sha2::{Digest as _, Sha256};
use sqlx::PgPool;

use crate::domain::Idempotency;

/// Rows that are deleted at once.
const PURGED_AT_ONCE: i64 = 5_000;

/// The statements about them. Cheap to clone.
#[derive(Clone)]
pub(super) struct Publications {
    pool: PgPool,
    kept: Duration,
    /// How long correlation data may be wanted by an answer.
    answered_within: Duration,
}

/// By what a message is known when it comes again.
struct Slot {
    name: String,
    /// Whether it may have come before: MQTT says so, or its publisher gave it an id of its own.
    is_repeatable: bool,
}

impl Slot {
    /// None: it cannot be told apart from others.
    fn of(publication: &TopicPublication, digest: &[u8; 32]) -> Option<Self> {
        if let Some(data) = &publication.correlation_data {
            // With what it is about: an application may use one id for commands to several things.
            let digest = Sha256::new().chain_update(digest).chain_update(data).finalize();
            let name = format!("correlation:{}", hex(&digest));
            return Some(Self { name, is_repeatable: true });
        }
        let name = format!("packet:{}", publication.packet_id?);
        Some(Self { name, is_repeatable: publication.is_duplicate })
    }
}

/// The same for the same topic and payload.
fn digest(publication: &TopicPublication) -> [u8; 32] {
    let mut digest = Sha256::new();
    digest.update(publication.topic.as_bytes());
    // No topic holds it.
    digest.update([0]);
    digest.update(&publication.payload);
    digest.finalize().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Publications {
    pub(super) fn new(pool: PgPool, kept: Duration, answered_within: Duration) -> Self {
        Self { pool, kept, answered_within }
    }

    /// The key under which a command is invoked: that of the first time when the message comes again, else a new one.
    pub(super) async fn invocation(
        &self,
        publication: &TopicPublication,
        credentials_id: &str,
    ) -> sqlx::Result<Option<Idempotency>> {
        let digest = digest(publication);
        let Some(slot) = Slot::of(publication, &digest) else { return Ok(None) };
        let fresh = format!("mqtt:{:032x}", rand::random::<u128>());
        // What comes again while the first is under way gets the key of the first, too.
        let key: Option<String> = sqlx::query_scalar(
            "INSERT INTO publications AS known
                 (tenant_id, credentials_id, client_id, slot, digest, idempotency_key, correlation_data)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (tenant_id, credentials_id, client_id, slot) DO UPDATE SET
                 idempotency_key = CASE WHEN $8 AND known.digest = $5 AND known.published_at > now() - $9
                     THEN coalesce(known.idempotency_key, $6) ELSE $6 END,
                 digest = $5, command_id = NULL, correlation_data = $7, published_at = now()
             RETURNING idempotency_key",
        )
        .bind(publication.tenant.as_str())
        .bind(credentials_id)
        .bind(&publication.client_id)
        .bind(slot.name)
        .bind(digest)
        .bind(fresh)
        .bind(publication.correlation_data.as_deref())
        .bind(slot.is_repeatable)
        .bind(self.kept)
        .fetch_one(&self.pool)
        .await?;
        Ok(key.map(|key| Idempotency { key, digest }))
    }

    /// The command that a result is of, when it came before.
    pub(super) async fn answered(
        &self,
        publication: &TopicPublication,
        credentials_id: &str,
    ) -> sqlx::Result<Option<i32>> {
        let digest = digest(publication);
        let slot = Slot::of(publication, &digest).filter(|slot| slot.is_repeatable);
        let Some(slot) = slot else { return Ok(None) };
        let command_id: Option<Option<i32>> = sqlx::query_scalar(
            "SELECT command_id FROM publications
             WHERE tenant_id = $1 AND credentials_id = $2 AND client_id = $3 AND slot = $4 AND digest = $5
                 AND published_at > now() - $6",
        )
        .bind(publication.tenant.as_str())
        .bind(credentials_id)
        .bind(&publication.client_id)
        .bind(slot.name)
        .bind(digest)
        .bind(self.kept)
        .fetch_optional(&self.pool)
        .await?;
        Ok(command_id.flatten())
    }

    /// Notes which command a result is taken to be of.
    pub(super) async fn answers(
        &self,
        publication: &TopicPublication,
        credentials_id: &str,
        command_id: i32,
    ) -> sqlx::Result<()> {
        let digest = digest(publication);
        let Some(slot) = Slot::of(publication, &digest) else { return Ok(()) };
        sqlx::query(
            "INSERT INTO publications (tenant_id, credentials_id, client_id, slot, digest, command_id)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (tenant_id, credentials_id, client_id, slot) DO UPDATE SET
                 digest = $5, command_id = $6, idempotency_key = NULL, correlation_data = NULL, published_at = now()",
        )
        .bind(publication.tenant.as_str())
        .bind(credentials_id)
        .bind(&publication.client_id)
        .bind(slot.name)
        .bind(digest)
        .bind(command_id)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Forgets some of those that are too old; answers whether there may be more.
    pub(super) async fn purge(&self) -> sqlx::Result<bool> {
        let deleted = sqlx::query(
            "DELETE FROM publications WHERE ctid IN (
                 SELECT ctid FROM publications
                 WHERE published_at <= now() - $1
                     AND (correlation_data IS NULL OR published_at <= now() - $3) LIMIT $2)",
        )
        .bind(self.kept)
        .bind(PURGED_AT_ONCE)
        .bind(self.answered_within)
        .execute(&self.pool)
        .await?;
        Ok(i64::try_from(deleted.rows_affected()).is_ok_and(|deleted| deleted == PURGED_AT_ONCE))
    }
}
