//! Failed logins in a row, by user name and address, and by user name alone.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::Store;
use crate::error::Error;
use crate::secret::Sha256Digest;

/// When failures lock, and for how long.
struct Lock {
    /// The attempt that locks for 1 s, if it fails like all before it; each further one for twice as long.
    from: i32,
    /// The longest lock, in seconds.
    max_s: i32,
}

/// Of a user name at one address.
const AT_ADDRESS: Lock = Lock { from: 5, max_s: 15 * 60 };
/// Of a user name at all addresses: late and short, so that somebody elsewhere cannot keep the user out for long.
const EVERYWHERE: Lock = Lock { from: 50, max_s: 30 };

/// Who tries to log in, as digests.
#[derive(Clone, Copy)]
pub(crate) struct LoginSubject {
    /// The tenant and user name.
    pub(crate) account: Sha256Digest,
    /// The same at an address.
    pub(crate) at_address: Sha256Digest,
}

/// Whether a password may be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    Allowed,
    /// For so long not.
    Locked(Duration),
}

impl Store {
    /// Counts an attempt as failed before it is made, so that attempts side by side cannot outrun the count.
    /// [`Self::login_succeeded`] takes that back. What is locked is not counted.
    pub(crate) async fn attempt_login(&self, subject: &LoginSubject) -> Result<Attempt, Error> {
        let mut transaction = self.pool.begin().await?;
        for (counted, lock) in [(&subject.at_address, AT_ADDRESS), (&subject.account, EVERYWHERE)] {
            if !count(&mut transaction, counted, &subject.account, &lock).await? {
                let left = left(&mut transaction, counted).await?;
                transaction.rollback().await?;
                return Ok(Attempt::Locked(left));
            }
        }
        transaction.commit().await?;
        Ok(Attempt::Allowed)
    }

    /// Forgets the failures of a subject. Those at other addresses stay: who guesses there gains nothing from the user's
    /// own logins.
    pub(crate) async fn login_succeeded(&self, subject: &LoginSubject) -> Result<(), Error> {
        self.forget(
            "DELETE FROM login_failures WHERE subject_hash = $1",
            &subject.at_address,
            &subject.account,
        )
        .await
    }

    /// Forgets the failures of an account, at all addresses.
    pub(crate) async fn forgive_logins(&self, account: &Sha256Digest) -> Result<(), Error> {
        self.forget(
            "DELETE FROM login_failures WHERE account_hash = $1 AND subject_hash <> $1",
            account,
            account,
        )
        .await
    }

    /// First at addresses, then everywhere, as attempts lock them: nobody waits for each other in a circle.
    async fn forget(
        &self,
        at_addresses: &'static str,
        of: &Sha256Digest,
        account: &Sha256Digest,
    ) -> Result<(), Error> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query(at_addresses).bind(of.as_slice()).execute(&mut *transaction).await?;
        sqlx::query("DELETE FROM login_failures WHERE subject_hash = $1")
            .bind(account.as_slice())
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Deletes up to `limit` failures that no longer count.
    pub(crate) async fn delete_old_login_failures(&self, limit: i64) -> Result<u64, Error> {
        let done = sqlx::query(
            "DELETE FROM login_failures WHERE subject_hash IN (
                 SELECT subject_hash FROM login_failures WHERE last_failed_at < now() - interval '1 hour' LIMIT $1
                 FOR UPDATE SKIP LOCKED)",
        )
        .bind(limit)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }
}

/// Counts one failure; false when the subject is locked. The time is that of the clock: `now()` is when the transaction
/// began, which may be before another wrote what this one has waited for.
async fn count(
    connection: &mut PgConnection,
    subject: &Sha256Digest,
    account: &Sha256Digest,
    lock: &Lock,
) -> Result<bool, Error> {
    let counted = sqlx::query(
        "INSERT INTO login_failures AS f (subject_hash, account_hash, failures, locked_until, last_failed_at)
         VALUES ($1, $2, 1, 'epoch', clock_timestamp())
         ON CONFLICT (subject_hash) DO UPDATE SET
             failures = CASE WHEN f.last_failed_at < now() - interval '1 hour' THEN 1 ELSE f.failures + 1 END,
             locked_until = CASE
                 WHEN f.last_failed_at < now() - interval '1 hour' OR f.failures + 1 < $3 THEN 'epoch'
                 ELSE clock_timestamp() + make_interval(secs => least($4, power(2, least(f.failures + 1 - $3, 20)))) END,
             last_failed_at = clock_timestamp()
         WHERE f.locked_until <= clock_timestamp()",
    )
    .bind(subject.as_slice())
    .bind(account.as_slice())
    .bind(lock.from)
    .bind(lock.max_s)
    .execute(connection)
    .await?;
    Ok(counted.rows_affected() > 0)
}

/// How long a subject is locked.
async fn left(connection: &mut PgConnection, subject: &Sha256Digest) -> Result<Duration, Error> {
    let locked: Option<(DateTime<Utc>, DateTime<Utc>)> =
        sqlx::query_as("SELECT locked_until, clock_timestamp() FROM login_failures WHERE subject_hash = $1")
            .bind(subject.as_slice())
            .fetch_optional(connection)
            .await?;
    // Unlocked between the two looks: the next attempt is allowed.
    Ok(locked.and_then(|(until, now)| (until - now).to_std().ok()).unwrap_or_default())
}
