//! Users.

use chrono::{DateTime, Utc};
use ids::TenantId;
use rest::Role;
use sqlx::{FromRow, PgConnection};
use store::ConstraintExt as _;
use uuid::Uuid;

use super::{GrantsColumn, Store, containing, grant_columns, grants, lock_tenant, role};
use crate::domain::{Grants, User, Username};
use crate::error::Error;

#[derive(FromRow)]
struct UserRow {
    user_id: Uuid,
    tenant_id: String,
    username: String,
    name: String,
    role: Option<String>,
    enabled: bool,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    last_login_at: Option<DateTime<Utc>>,
    grants: GrantsColumn,
}

impl From<UserRow> for User {
    fn from(row: UserRow) -> Self {
        Self {
            id: row.user_id,
            tenant_id: row.tenant_id,
            username: row.username,
            name: row.name,
            role: role(row.role.as_deref()),
            grants: grants(row.grants),
            enabled: row.enabled,
            created_date: row.created_at,
            updated_date: row.updated_at,
            last_login_date: row.last_login_at,
        }
    }
}

/// A user to make.
pub(crate) struct NewUser<'a> {
    pub(crate) id: Uuid,
    pub(crate) tenant: &'a TenantId,
    pub(crate) username: &'a Username,
    pub(crate) name: &'a str,
    pub(crate) role: Option<Role>,
    pub(crate) grants: &'a Grants,
    pub(crate) enabled: bool,
    pub(crate) password_hash: &'a str,
}

/// What to change; none: stays as it is.
#[derive(Default)]
pub(crate) struct UserChange {
    pub(crate) name: Option<String>,
    pub(crate) role: Option<Option<Role>>,
    pub(crate) grants: Option<Grants>,
    pub(crate) enabled: Option<bool>,
}

/// Which users to list.
#[derive(Default)]
pub(crate) struct UserFilter<'a> {
    /// A part of user name or name, whatever the case.
    pub(crate) search: Option<&'a str>,
    pub(crate) enabled: Option<bool>,
}

/// What a password is checked against.
#[derive(Debug, FromRow)]
pub(crate) struct Credentials {
    pub(crate) user_id: Uuid,
    pub(crate) username_folded: String,
    pub(crate) password_hash: String,
    /// As it was with this password: what is given for it is only good with that version.
    pub(crate) token_version: i32,
}

impl NewUser<'_> {
    pub(super) async fn insert(&self, connection: &mut PgConnection) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO users (user_id, tenant_id, username, username_folded, name, role, enabled, password_hash)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(self.id)
        .bind(self.tenant.as_str())
        .bind(&self.username.text)
        .bind(&self.username.folded)
        .bind(self.name)
        .bind(self.role.map(Role::as_str))
        .bind(self.enabled)
        .bind(self.password_hash)
        .execute(&mut *connection)
        .await
        .on_constraint("users_username_key", || Error::UsernameTaken)?;
        insert_grants(connection, self.id, self.grants).await
    }
}

async fn insert_grants(connection: &mut PgConnection, user: Uuid, grants: &Grants) -> Result<(), Error> {
    let (names, roles) = grant_columns(grants);
    sqlx::query(
        "INSERT INTO user_grants (user_id, application_name, role) SELECT $1, * FROM unnest($2::text[], $3::text[])",
    )
    .bind(user)
    .bind(names)
    .bind(roles)
    .execute(connection)
    .await?;
    Ok(())
}

async fn read_user(connection: &mut PgConnection, tenant: &TenantId, user: Uuid) -> Result<User, Error> {
    let row: Option<UserRow> = sqlx::query_as(
        "SELECT user_id, tenant_id, username, name, role, enabled, created_at, updated_at, last_login_at, grants
         FROM users_with_grants WHERE user_id = $1 AND tenant_id = $2",
    )
    .bind(user)
    .bind(tenant.as_str())
    .fetch_optional(connection)
    .await?;
    row.map(User::from).ok_or(Error::UnknownUser(user))
}

/// Fails when the tenant, which the caller has locked, is left without an administrator who can log in.
async fn require_admin(connection: &mut PgConnection, tenant: &TenantId) -> Result<(), Error> {
    let left: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM users WHERE tenant_id = $1 AND role = 'admin' AND enabled)",
    )
    .bind(tenant.as_str())
    .fetch_one(connection)
    .await?;
    if left { Ok(()) } else { Err(Error::LastAdmin) }
}

fn is_working_admin(user: &User) -> bool {
    user.enabled && user.role == Some(Role::Admin)
}

impl Store {
    /// Makes a user.
    pub(crate) async fn create_user(&self, new: NewUser<'_>) -> Result<User, Error> {
        let mut transaction = self.pool.begin().await?;
        lock_tenant(&mut transaction, new.tenant).await?;
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM users WHERE tenant_id = $1")
            .bind(new.tenant.as_str())
            .fetch_one(&mut *transaction)
            .await?;
        if count >= self.limits.users {
            return Err(Error::TooManyUsers(self.limits.users));
        }
        new.insert(&mut transaction).await?;
        let user = read_user(&mut transaction, new.tenant, new.id).await?;
        transaction.commit().await?;
        Ok(user)
    }

    /// A page of the tenant's users by user name, and how many there are in all.
    pub(crate) async fn users(
        &self,
        tenant: &TenantId,
        filter: &UserFilter<'_>,
        offset: i64,
        limit: i64,
    ) -> Result<(i64, Vec<User>), Error> {
        let search = filter.search.map(containing);
        let total = sqlx::query_scalar(
            "SELECT count(*) FROM users WHERE tenant_id = $1
             AND ($2::text IS NULL OR username ILIKE $2 OR name ILIKE $2) AND ($3::bool IS NULL OR enabled = $3)",
        )
        .bind(tenant.as_str())
        .bind(search.as_deref())
        .bind(filter.enabled)
        .fetch_one(&self.pool)
        .await?;
        let rows: Vec<UserRow> = sqlx::query_as(
            "SELECT user_id, tenant_id, username, name, role, enabled, created_at, updated_at, last_login_at, grants
             FROM users_with_grants WHERE tenant_id = $1
             AND ($2::text IS NULL OR username ILIKE $2 OR name ILIKE $2) AND ($3::bool IS NULL OR enabled = $3)
             ORDER BY username_folded OFFSET $4 LIMIT $5",
        )
        .bind(tenant.as_str())
        .bind(search.as_deref())
        .bind(filter.enabled)
        .bind(offset)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        Ok((total, rows.into_iter().map(User::from).collect()))
    }

    /// One user of the tenant.
    pub(crate) async fn user(&self, tenant: &TenantId, user: Uuid) -> Result<User, Error> {
        read_user(&mut *self.pool.acquire().await?, tenant, user).await
    }

    /// Changes what is given. The lock on the tenant makes concurrent changes wait for each other, so that two
    /// cannot each take the other's for the last administrator.
    pub(crate) async fn update_user(
        &self,
        tenant: &TenantId,
        user: Uuid,
        change: UserChange,
    ) -> Result<User, Error> {
        let mut transaction = self.pool.begin().await?;
        lock_tenant(&mut transaction, tenant).await?;
        let before = read_user(&mut transaction, tenant, user).await?;
        // A disabled user's tokens stay useless when the user is enabled again.
        sqlx::query(
            "UPDATE users SET name = coalesce($3, name), role = CASE WHEN $4 THEN $5 ELSE role END,
                 enabled = coalesce($6, enabled), updated_at = now(),
                 token_version = token_version + CASE WHEN enabled AND $6 = false THEN 1 ELSE 0 END
             WHERE user_id = $1 AND tenant_id = $2",
        )
        .bind(user)
        .bind(tenant.as_str())
        .bind(change.name)
        .bind(change.role.is_some())
        .bind(change.role.flatten().map(Role::as_str))
        .bind(change.enabled)
        .execute(&mut *transaction)
        .await?;
        if let Some(grants) = &change.grants {
            sqlx::query("DELETE FROM user_grants WHERE user_id = $1")
                .bind(user)
                .execute(&mut *transaction)
                .await?;
            insert_grants(&mut transaction, user, grants).await?;
        }
        if change.enabled == Some(false) {
            end_sessions(&mut transaction, user).await?;
        }
        let after = read_user(&mut transaction, tenant, user).await?;
        if is_working_admin(&before) && !is_working_admin(&after) {
            require_admin(&mut transaction, tenant).await?;
        }
        transaction.commit().await?;
        Ok(after)
    }

    /// Deletes a user, with sessions and grants.
    pub(crate) async fn delete_user(&self, tenant: &TenantId, user: Uuid) -> Result<(), Error> {
        let mut transaction = self.pool.begin().await?;
        lock_tenant(&mut transaction, tenant).await?;
        let before = read_user(&mut transaction, tenant, user).await?;
        sqlx::query("DELETE FROM users WHERE user_id = $1 AND tenant_id = $2")
            .bind(user)
            .bind(tenant.as_str())
            .execute(&mut *transaction)
            .await?;
        if is_working_admin(&before) {
            require_admin(&mut transaction, tenant).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Gives a user another password: all tokens and sessions from before are useless.
    pub(crate) async fn set_password(&self, tenant: &TenantId, user: Uuid, hash: &str) -> Result<(), Error> {
        let mut transaction = self.pool.begin().await?;
        let done = sqlx::query(
            "UPDATE users SET password_hash = $3, token_version = token_version + 1, updated_at = now()
             WHERE user_id = $1 AND tenant_id = $2",
        )
        .bind(user)
        .bind(tenant.as_str())
        .bind(hash)
        .execute(&mut *transaction)
        .await?;
        if done.rows_affected() == 0 {
            return Err(Error::UnknownUser(user));
        }
        end_sessions(&mut transaction, user).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// What the password of a user name is checked against.
    pub(crate) async fn credentials(
        &self,
        tenant: &TenantId,
        username_folded: &str,
    ) -> Result<Option<Credentials>, Error> {
        let found = sqlx::query_as(
            "SELECT user_id, username_folded, password_hash, token_version FROM users
             WHERE tenant_id = $1 AND username_folded = $2",
        )
        .bind(tenant.as_str())
        .bind(username_folded)
        .fetch_optional(&self.pool)
        .await?;
        Ok(found)
    }

    /// What the password of a user is checked against.
    pub(crate) async fn credentials_of(&self, tenant: &TenantId, user: Uuid) -> Result<Credentials, Error> {
        let found = sqlx::query_as(
            "SELECT user_id, username_folded, password_hash, token_version FROM users
             WHERE tenant_id = $1 AND user_id = $2",
        )
        .bind(tenant.as_str())
        .bind(user)
        .fetch_optional(&self.pool)
        .await?;
        found.ok_or(Error::UnknownUser(user))
    }

    /// Keeps a new hash of the same password, unless the password has changed meanwhile.
    pub(crate) async fn rehash(&self, user: Uuid, old: &str, new: &str) -> Result<(), Error> {
        sqlx::query("UPDATE users SET password_hash = $3 WHERE user_id = $1 AND password_hash = $2")
            .bind(user)
            .bind(old)
            .bind(new)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

async fn end_sessions(connection: &mut PgConnection, user: Uuid) -> Result<(), Error> {
    sqlx::query("DELETE FROM sessions WHERE user_id = $1").bind(user).execute(connection).await?;
    Ok(())
}
