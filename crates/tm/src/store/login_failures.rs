//! Failed logins in a row.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::Store;
use crate::error::Error;
use crate::secret::Sha256Digest;

/// The attempt that locks, if it fails like all before it: the fifth for 1 s, each further one for twice as long.
const LOCKS_FROM: i32 = 5;
/// The longest lock, in seconds.
const LOCK_MAX_S: i32 = 15 * 60;

/// Whether a password may be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    Allowed,
    /// For so long not.
    Locked(Duration),
}

impl Store {
    /// Counts an attempt as failed before it is made, so that attempts side by side cannot outrun the count.
    /// [`Self::login_succeeded`] takes that back.
    pub(crate) async fn attempt_login(&self, subject: &Sha256Digest) -> Result<Attempt, Error> {
        let counted: Option<i32> = sqlx::query_scalar(
            "INSERT INTO login_failures AS f (subject_hash, failures, locked_until, last_failed_at)
             VALUES ($1, 1, now(), now())
             ON CONFLICT (subject_hash) DO UPDATE SET
                 failures = CASE WHEN f.last_failed_at < now() - interval '1 hour' THEN 1 ELSE f.failures + 1 END,
                 locked_until = now() + make_interval(secs => CASE
                     WHEN f.last_failed_at < now() - interval '1 hour' OR f.failures + 1 < $2 THEN 0
                     ELSE least($3, power(2, least(f.failures + 1 - $2, 20))) END),
                 last_failed_at = now()
             WHERE f.locked_until <= now()
             RETURNING failures",
        )
        .bind(subject.as_slice())
        .bind(LOCKS_FROM)
        .bind(LOCK_MAX_S)
        .fetch_optional(&self.pool)
        .await?;
        if counted.is_some() {
            return Ok(Attempt::Allowed);
        }
        let locked: Option<(DateTime<Utc>, DateTime<Utc>)> =
            sqlx::query_as("SELECT locked_until, now() FROM login_failures WHERE subject_hash = $1")
                .bind(subject.as_slice())
                .fetch_optional(&self.pool)
                .await?;
        // Unlocked between the two looks: the next attempt is allowed.
        let left = locked.and_then(|(until, now)| (until - now).to_std().ok()).unwrap_or_default();
        Ok(Attempt::Locked(left))
    }

    /// Forgets the failures of a subject.
    pub(crate) async fn login_succeeded(&self, subject: &Sha256Digest) -> Result<(), Error> {
        sqlx::query("DELETE FROM login_failures WHERE subject_hash = $1")
            .bind(subject.as_slice())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Deletes up to `limit` failures that no longer count.
    pub(crate) async fn delete_old_login_failures(&self, limit: i64) -> Result<u64, Error> {
        let done = sqlx::query(
            "DELETE FROM login_failures WHERE subject_hash IN (
                 SELECT subject_hash FROM login_failures WHERE last_failed_at < now() - interval '1 hour' LIMIT $1)",
        )
        .bind(limit)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }
}
