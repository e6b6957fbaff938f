//! Sessions: logins that are kept alive by refresh tokens, of which each is good for one use.

use chrono::{DateTime, Utc};
use ids::TenantId;
use uuid::Uuid;

use super::Store;
use crate::error::Error;
use crate::secret::Sha256Digest;

/// Used tokens of a session that are remembered, so that showing one of them again ends the session.
const USED_TOKENS_MAX: i64 = 100;

/// How long sessions and their tokens live, and how many there are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SessionLimits {
    pub(crate) token_s: u32,
    pub(crate) session_s: u32,
    pub(crate) per_user: i64,
}

/// What became of a refresh token that was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refreshed {
    /// It was good, and is used now. The next one is kept.
    Next { user: Uuid, token_version: i32, expires_at: DateTime<Utc> },
    /// It was used before: the session has ended.
    Reused { user: Uuid },
    /// Unknown, expired, or of another tenant.
    Invalid,
}

type SessionRow = (Uuid, Uuid, i32, DateTime<Utc>);

impl Store {
    /// Begins a session with its first token, and tells when that expires; none when the user's tokens have another
    /// version by now, or there is no such user: the password was changed, the user disabled or deleted meanwhile. The
    /// lock on the user's row makes such a change wait, and then it ends the new session too. The user's oldest sessions
    /// above the limit end.
    pub(crate) async fn begin_session(
        &self,
        user: Uuid,
        token_version: i32,
        token: &Sha256Digest,
        limits: SessionLimits,
    ) -> Result<Option<DateTime<Utc>>, Error> {
        let session = Uuid::now_v7();
        let mut transaction = self.pool.begin().await?;
        let begun = sqlx::query(
            "INSERT INTO sessions (session_id, user_id, tenant_id, expires_at)
             SELECT $1, user_id, tenant_id, now() + make_interval(secs => $4) FROM users
             WHERE user_id = $2 AND token_version = $3 AND enabled FOR NO KEY UPDATE",
        )
        .bind(session)
        .bind(user)
        .bind(token_version)
        .bind(f64::from(limits.session_s))
        .execute(&mut *transaction)
        .await?;
        if begun.rows_affected() == 0 {
            return Ok(None);
        }
        let expires_at = sqlx::query_scalar(
            "INSERT INTO refresh_tokens (token_hash, session_id, serial, expires_at)
             SELECT $1, session_id, 1, least(expires_at, now() + make_interval(secs => $3))
             FROM sessions WHERE session_id = $2 RETURNING expires_at",
        )
        .bind(token.as_slice())
        .bind(session)
        .bind(f64::from(limits.token_s))
        .fetch_one(&mut *transaction)
        .await?;
        sqlx::query(
            "DELETE FROM sessions WHERE session_id IN (
                 SELECT session_id FROM sessions WHERE user_id = $1 ORDER BY created_at DESC, session_id DESC OFFSET $2)",
        )
        .bind(user)
        .bind(limits.per_user)
        .execute(&mut *transaction)
        .await?;
        sqlx::query("UPDATE users SET last_login_at = now() WHERE user_id = $1")
            .bind(user)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(Some(expires_at))
    }

    /// Exchanges a refresh token for the next one. The lock on the session lets one of two at the same moment win; the
    /// other, who looks at the token only then, has shown a used one.
    pub(crate) async fn refresh(
        &self,
        tenant: Option<&TenantId>,
        token: &Sha256Digest,
        next: &Sha256Digest,
        limits: SessionLimits,
    ) -> Result<Refreshed, Error> {
        let mut transaction = self.pool.begin().await?;
        let session: Option<SessionRow> = sqlx::query_as(
            "SELECT session_id, user_id, u.token_version, s.expires_at FROM sessions s JOIN users u USING (user_id)
             WHERE session_id = (SELECT r.session_id FROM refresh_tokens r WHERE r.token_hash = $1)
             AND ($2::text IS NULL OR s.tenant_id = $2) AND s.expires_at > now() FOR UPDATE OF s",
        )
        .bind(token.as_slice())
        .bind(tenant.map(TenantId::as_str))
        .fetch_optional(&mut *transaction)
        .await?;
        let Some((session, user, token_version, session_expires_at)) = session else {
            return Ok(Refreshed::Invalid);
        };
        let token_row: Option<(i64, bool)> = sqlx::query_as(
            "SELECT serial, used_at IS NOT NULL FROM refresh_tokens WHERE token_hash = $1 AND expires_at > now()",
        )
        .bind(token.as_slice())
        .fetch_optional(&mut *transaction)
        .await?;
        let Some((serial, is_used)) = token_row else { return Ok(Refreshed::Invalid) };
        if is_used {
            sqlx::query("DELETE FROM sessions WHERE session_id = $1")
                .bind(session)
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await?;
            return Ok(Refreshed::Reused { user });
        }
        sqlx::query("UPDATE refresh_tokens SET used_at = now() WHERE token_hash = $1")
            .bind(token.as_slice())
            .execute(&mut *transaction)
            .await?;
        let expires_at = sqlx::query_scalar(
            "INSERT INTO refresh_tokens (token_hash, session_id, serial, expires_at)
             VALUES ($1, $2, $3, least($4, now() + make_interval(secs => $5))) RETURNING expires_at",
        )
        .bind(next.as_slice())
        .bind(session)
        .bind(serial + 1)
        .bind(session_expires_at)
        .bind(f64::from(limits.token_s))
        .fetch_one(&mut *transaction)
        .await?;
        sqlx::query("DELETE FROM refresh_tokens WHERE session_id = $1 AND serial <= $2")
            .bind(session)
            .bind(serial - USED_TOKENS_MAX)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(Refreshed::Next { user, token_version, expires_at })
    }

    /// Ends the session of a refresh token, used or not. To have ended already is fine.
    pub(crate) async fn end_session(
        &self,
        tenant: Option<&TenantId>,
        token: &Sha256Digest,
    ) -> Result<(), Error> {
        sqlx::query(
            "DELETE FROM sessions WHERE ($2::text IS NULL OR tenant_id = $2)
             AND session_id = (SELECT session_id FROM refresh_tokens WHERE token_hash = $1)",
        )
        .bind(token.as_slice())
        .bind(tenant.map(TenantId::as_str))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Deletes up to `limit` sessions whose last token has expired.
    pub(crate) async fn delete_old_sessions(&self, limit: i64) -> Result<u64, Error> {
        let done = sqlx::query(
            "DELETE FROM sessions WHERE session_id IN (
                 SELECT session_id FROM sessions s WHERE expires_at <= now() OR NOT EXISTS (
                     SELECT FROM refresh_tokens r WHERE r.session_id = s.session_id AND r.expires_at > now())
                 LIMIT $1)",
        )
        .bind(limit)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }
}
