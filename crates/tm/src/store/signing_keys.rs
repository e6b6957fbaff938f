//! The keys that sign tokens. They belong to no tenant.

use chrono::{DateTime, Utc};
use jsonwebtoken::jwk::Jwk;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection};

use super::Store;
use crate::error::Error;

/// A key to keep.
pub(crate) struct NewSigningKey {
    pub(crate) kid: String,
    pub(crate) algorithm: &'static str,
    pub(crate) public_jwk: Jwk,
    /// Encrypted.
    pub(crate) private_key: Vec<u8>,
}

/// A key that still verifies tokens.
#[derive(FromRow)]
pub(crate) struct SigningKeyRow {
    pub(crate) kid: String,
    pub(crate) public_jwk: Json<Jwk>,
    /// Encrypted.
    pub(crate) private_key: Vec<u8>,
    pub(crate) created_at: DateTime<Utc>,
    /// None: it signs too.
    pub(crate) retires_at: Option<DateTime<Utc>>,
}

impl NewSigningKey {
    async fn insert(&self, connection: &mut PgConnection) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO signing_keys (kid, algorithm, public_jwk, private_key) VALUES ($1, $2, $3, $4)",
        )
        .bind(&self.kid)
        .bind(self.algorithm)
        .bind(Json(&self.public_jwk))
        .bind(&self.private_key)
        .execute(connection)
        .await?;
        Ok(())
    }
}

/// Replicas that start side by side must not each make a key.
async fn lock(connection: &mut PgConnection) -> Result<(), Error> {
    sqlx::query("LOCK TABLE signing_keys IN SHARE ROW EXCLUSIVE MODE").execute(connection).await?;
    Ok(())
}

impl Store {
    /// The keys that are not retired, the newest first.
    pub(crate) async fn signing_keys(&self) -> Result<Vec<SigningKeyRow>, Error> {
        let keys = sqlx::query_as(
            "SELECT kid, public_jwk, private_key, created_at, retires_at FROM signing_keys
             WHERE retires_at IS NULL OR retires_at > now() ORDER BY created_at DESC, kid",
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(keys)
    }

    /// Keeps a key if there is none that signs.
    pub(crate) async fn add_first_signing_key(&self, key: &NewSigningKey) -> Result<(), Error> {
        let mut transaction = self.pool.begin().await?;
        lock(&mut transaction).await?;
        let exists: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT FROM signing_keys WHERE retires_at IS NULL)")
                .fetch_one(&mut *transaction)
                .await?;
        if !exists {
            key.insert(&mut transaction).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Keeps a key that signs from now on; the others verify for so many seconds more.
    pub(crate) async fn rotate_signing_key(&self, key: &NewSigningKey, verify_s: f64) -> Result<(), Error> {
        let mut transaction = self.pool.begin().await?;
        lock(&mut transaction).await?;
        sqlx::query(
            "UPDATE signing_keys SET retires_at = now() + make_interval(secs => $1) WHERE retires_at IS NULL",
        )
        .bind(verify_s)
        .execute(&mut *transaction)
        .await?;
        key.insert(&mut transaction).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Deletes retired keys.
    pub(crate) async fn delete_old_signing_keys(&self) -> Result<u64, Error> {
        let done =
            sqlx::query("DELETE FROM signing_keys WHERE retires_at <= now()").execute(&self.pool).await?;
        Ok(done.rows_affected())
    }
}
