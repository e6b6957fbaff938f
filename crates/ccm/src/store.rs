//! The service's tables.

mod announcements;
mod authorities;
mod basic;
mod x509;

use chrono::{DateTime, Utc};
use ids::TenantId;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, FromRow, PgConnection, PgPool};
use uuid::Uuid;

pub(crate) use announcements::Announcement;
pub(crate) use authorities::{Anchor, Authority, Kind, NewForeign, StoredSigner};
pub(crate) use basic::{Basic, Found};
pub(crate) use x509::{Issued, Presented, X509};

use crate::error::Error;
use crate::state::State;

/// The migrations of the schema.
pub(crate) static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// Credentials and authorities in PostgreSQL. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Store {
    pool: PgPool,
    limits: Limits,
}

/// How much one tenant may have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) basic_credentials: i64,
    pub(crate) x509_credentials: i64,
    pub(crate) authorities: i64,
}

/// What is counted for each tenant: a table, and the column of `tenants` of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    Basic,
    X509,
    Authorities,
}

impl Counted {
    const fn table(self) -> &'static str {
        match self {
            Self::Basic => "basic_credentials",
            Self::X509 => "x509_credentials",
            Self::Authorities => "authorities",
        }
    }
}

/// What an event tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Topic {
    Basic,
    Certificate,
    Authorities,
}

impl Topic {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Basic => "basic",
            Self::Certificate => "certificate",
            Self::Authorities => "authorities",
        }
    }
}

impl TryFrom<String> for Topic {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        [Self::Basic, Self::Certificate, Self::Authorities]
            .into_iter()
            .find(|topic| topic.as_str() == text)
            .ok_or_else(|| format!("{text} is no topic of announcements"))
    }
}

/// Credentials of one kind, as their owner sees them.
pub(crate) trait Credentials: for<'r> FromRow<'r, PgRow> + Send + Unpin {
    const COUNTED: Counted;
    const TOPIC: Topic;
    const COLUMNS: &'static str;
}

/// Which credentials to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Empty: any.
    pub(crate) states: Vec<State>,
    pub(crate) offset: i64,
    pub(crate) limit: i64,
}

/// Who changes something, in which of his requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change<'a> {
    pub(crate) tenant: &'a TenantId,
    pub(crate) correlation_id: &'a str,
}

impl Store {
    pub(crate) fn new(pool: PgPool, limits: Limits) -> Self {
        Self { pool, limits }
    }

    /// A page of the tenant's credentials, the oldest first, and how many there are in all.
    pub(crate) async fn list<C: Credentials>(
        &self,
        tenant: &TenantId,
        filter: &Filter,
    ) -> Result<(i64, Vec<C>), Error> {
        const WHICH: &str = "tenant_id = $1 AND (cardinality($2::text[]) = 0 OR state = ANY($2))";
        let (table, columns) = (C::COUNTED.table(), C::COLUMNS);
        let states: Vec<&str> = filter.states.iter().map(|state| state.as_str()).collect();
        let total = format!("SELECT count(*) FROM {table} WHERE {WHICH}");
        let total: i64 = sqlx::query_scalar(AssertSqlSafe(total))
            .bind(tenant.as_str())
            .bind(&states)
            .fetch_one(&self.pool)
            .await?;
        let page =
            format!("SELECT {columns} FROM {table} WHERE {WHICH} ORDER BY credentials_id OFFSET $3 LIMIT $4");
        let page = sqlx::query_as(AssertSqlSafe(page))
            .bind(tenant.as_str())
            .bind(&states)
            .bind(filter.offset)
            .bind(filter.limit)
            .fetch_all(&self.pool)
            .await?;
        Ok((total, page))
    }

    /// One of the tenant's credentials.
    pub(crate) async fn get<C: Credentials>(&self, tenant: &TenantId, id: Uuid) -> Result<C, Error> {
        let mut connection = self.pool.acquire().await?;
        get(&mut connection, tenant, id).await
    }

    /// Moves credentials to another state; to have that state already is fine. It is announced when that makes them unusable,
    /// also when they were: the caller repeats because it has seen no effect.
    pub(crate) async fn transit<C: Credentials>(
        &self,
        change: Change<'_>,
        id: Uuid,
        target: State,
    ) -> Result<C, Error> {
        let table = C::COUNTED.table();
        let mut transaction = self.pool.begin().await?;
        let before =
            format!("SELECT state FROM {table} WHERE credentials_id = $1 AND tenant_id = $2 FOR UPDATE");
        let before: Option<String> = sqlx::query_scalar(AssertSqlSafe(before))
            .bind(id)
            .bind(change.tenant.as_str())
            .fetch_optional(&mut *transaction)
            .await?;
        let before: State = before.ok_or_else(|| Error::UnknownCredentials(id.to_string()))?.parse()?;
        if before != target {
            if !before.leads_to(target) {
                return Err(Error::Transition { from: before, to: target });
            }
            let update =
                format!("UPDATE {table} SET state = $2, updated_at = now() WHERE credentials_id = $1");
            sqlx::query(AssertSqlSafe(update))
                .bind(id)
                .bind(target.as_str())
                .execute(&mut *transaction)
                .await?;
        }
        if !target.is_usable() {
            announce(&mut transaction, change, C::TOPIC, Some(id)).await?;
        }
        let after = get(&mut transaction, change.tenant, id).await?;
        transaction.commit().await?;
        Ok(after)
    }

    /// Removes credentials.
    pub(crate) async fn delete<C: Credentials>(&self, change: Change<'_>, id: Uuid) -> Result<(), Error> {
        let table = C::COUNTED.table();
        let mut transaction = self.pool.begin().await?;
        lock(&mut transaction, change.tenant).await?;
        let delete =
            format!("DELETE FROM {table} WHERE credentials_id = $1 AND tenant_id = $2 RETURNING state");
        let state: Option<String> = sqlx::query_scalar(AssertSqlSafe(delete))
            .bind(id)
            .bind(change.tenant.as_str())
            .fetch_optional(&mut *transaction)
            .await?;
        let state: State = state.ok_or_else(|| Error::UnknownCredentials(id.to_string()))?.parse()?;
        if state.is_usable() {
            announce(&mut transaction, change, C::TOPIC, Some(id)).await?;
        }
        release(&mut transaction, change.tenant, C::COUNTED, 1).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Notes the first use of credentials, and tells what state they have then: somebody may have revoked them meanwhile.
    pub(crate) async fn first_use<C: Credentials>(&self, id: Uuid) -> Result<Option<State>, Error> {
        let table = C::COUNTED.table();
        let update = format!(
            "UPDATE {table} SET state = 'Active', updated_at = now(), last_use_at = now()
             WHERE credentials_id = $1 AND state = 'Inactive'"
        );
        sqlx::query(AssertSqlSafe(update)).bind(id).execute(&self.pool).await?;
        self.state::<C>(id).await
    }

    /// The present state of credentials.
    pub(crate) async fn state<C: Credentials>(&self, id: Uuid) -> Result<Option<State>, Error> {
        let table = C::COUNTED.table();
        let state = format!("SELECT state FROM {table} WHERE credentials_id = $1");
        let state: Option<String> =
            sqlx::query_scalar(AssertSqlSafe(state)).bind(id).fetch_optional(&self.pool).await?;
        Ok(state.map(|state| state.parse()).transpose()?)
    }

    /// Notes when credentials were last used. Those that somebody is changing are left out, so that this waits for nobody.
    pub(crate) async fn note_uses<C: Credentials>(
        &self,
        ids: &[Uuid],
        times: &[DateTime<Utc>],
    ) -> Result<(), Error> {
        let table = C::COUNTED.table();
        let update = format!(
            "UPDATE {table} SET last_use_at = used.at FROM unnest($1::uuid[], $2::timestamptz[]) AS used (id, at)
             WHERE credentials_id = used.id AND (last_use_at IS NULL OR last_use_at < used.at) AND credentials_id IN
                 (SELECT credentials_id FROM {table} WHERE credentials_id = ANY($1) FOR NO KEY UPDATE SKIP LOCKED)"
        );
        sqlx::query(AssertSqlSafe(update)).bind(ids).bind(times).execute(&self.pool).await?;
        Ok(())
    }

    /// Removes everything of a tenant.
    pub(crate) async fn delete_tenant(&self, change: Change<'_>) -> Result<(), Error> {
        let mut transaction = self.pool.begin().await?;
        lock(&mut transaction, change.tenant).await?;
        // In the order in which everybody locks: tenant, authorities, credentials.
        sqlx::query("SELECT FROM authorities WHERE tenant_id = $1 ORDER BY authority_id FOR UPDATE")
            .bind(change.tenant.as_str())
            .execute(&mut *transaction)
            .await?;
        announce_usable::<Basic>(&mut transaction, change, None).await?;
        announce_usable::<X509>(&mut transaction, change, None).await?;
        let mut deleted = 0;
        for counted in [Counted::X509, Counted::Basic, Counted::Authorities] {
            let delete = format!("DELETE FROM {} WHERE tenant_id = $1", counted.table());
            let done = sqlx::query(AssertSqlSafe(delete))
                .bind(change.tenant.as_str())
                .execute(&mut *transaction)
                .await?;
            deleted += done.rows_affected();
        }
        if deleted > 0 {
            announce(&mut transaction, change, Topic::Authorities, None).await?;
        }
        sqlx::query("DELETE FROM tenants WHERE tenant_id = $1")
            .bind(change.tenant.as_str())
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    fn limit(&self, counted: Counted) -> i64 {
        match counted {
            Counted::Basic => self.limits.basic_credentials,
            Counted::X509 => self.limits.x509_credentials,
            Counted::Authorities => self.limits.authorities,
        }
    }

    /// Counts one more, within the tenant's limit, and keeps others from adding or removing until the transaction ends.
    async fn reserve(
        &self,
        connection: &mut PgConnection,
        tenant: &TenantId,
        counted: Counted,
    ) -> Result<(), Error> {
        let (column, max) = (counted.table(), self.limit(counted));
        let reserve = format!(
            "INSERT INTO tenants (tenant_id, {column}) VALUES ($1, 1)
             ON CONFLICT ON CONSTRAINT tenants_pkey DO UPDATE SET {column} = tenants.{column} + 1
             WHERE tenants.{column} < $2"
        );
        let reserved = sqlx::query(AssertSqlSafe(reserve))
            .bind(tenant.as_str())
            .bind(max)
            .execute(connection)
            .await?
            .rows_affected();
        if reserved == 1 {
            return Ok(());
        }
        let (what, key) = match counted {
            Counted::Basic => ("basic credentials", "basic_credentials_max"),
            Counted::X509 => ("X.509 credentials", "x509_credentials_max"),
            Counted::Authorities => ("certificate authorities", "authorities_max"),
        };
        Err(Error::TooMany { what, key, max })
    }
}

async fn get<C: Credentials>(connection: &mut PgConnection, tenant: &TenantId, id: Uuid) -> Result<C, Error> {
    let (table, columns) = (C::COUNTED.table(), C::COLUMNS);
    let select = format!("SELECT {columns} FROM {table} WHERE credentials_id = $1 AND tenant_id = $2");
    let found: Option<C> = sqlx::query_as(AssertSqlSafe(select))
        .bind(id)
        .bind(tenant.as_str())
        .fetch_optional(connection)
        .await?;
    found.ok_or_else(|| Error::UnknownCredentials(id.to_string()))
}

/// Keeps others from adding to or removing from what the tenant has, until the transaction ends.
async fn lock(connection: &mut PgConnection, tenant: &TenantId) -> Result<(), Error> {
    sqlx::query("SELECT FROM tenants WHERE tenant_id = $1 FOR UPDATE")
        .bind(tenant.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

/// Counts some less.
async fn release(
    connection: &mut PgConnection,
    tenant: &TenantId,
    counted: Counted,
    count: i64,
) -> Result<(), Error> {
    let column = counted.table();
    let release = format!("UPDATE tenants SET {column} = {column} - $2 WHERE tenant_id = $1");
    sqlx::query(AssertSqlSafe(release)).bind(tenant.as_str()).bind(count).execute(connection).await?;
    Ok(())
}

/// Writes down an event that is to be sent once the transaction is committed.
async fn announce(
    connection: &mut PgConnection,
    change: Change<'_>,
    topic: Topic,
    credentials: Option<Uuid>,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO announcements (kind, tenant_id, credentials_id, correlation_id) VALUES ($1, $2, $3, $4)",
    )
    .bind(topic.as_str())
    .bind(change.tenant.as_str())
    .bind(credentials)
    .bind(change.correlation_id)
    .execute(connection)
    .await?;
    Ok(())
}

/// Writes down that each of the tenant's credentials that is usable stops being so: all, or those of an authority.
async fn announce_usable<C: Credentials>(
    connection: &mut PgConnection,
    change: Change<'_>,
    authority: Option<Uuid>,
) -> Result<(), Error> {
    let table = C::COUNTED.table();
    let of_authority = if authority.is_some() { "AND authority_id = $4" } else { "AND $4::uuid IS NULL" };
    let insert = format!(
        "INSERT INTO announcements (kind, tenant_id, credentials_id, correlation_id)
         SELECT $1, tenant_id, credentials_id, $3 FROM {table}
         WHERE tenant_id = $2 AND state IN ('Inactive', 'Active') {of_authority}"
    );
    sqlx::query(AssertSqlSafe(insert))
        .bind(C::TOPIC.as_str())
        .bind(change.tenant.as_str())
        .bind(change.correlation_id)
        .bind(authority)
        .execute(connection)
        .await?;
    Ok(())
}
