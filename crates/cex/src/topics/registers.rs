//! Who is who on topics: things, commanders and groups.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use ids::{ApplicationName, CommandType, EndpointId, TenantId, ThingName};
use serde::Serialize;
use sqlx::{FromRow, PgConnection, PgPool};
use utoipa::ToSchema;

use crate::error::Error;

/// A name of an endpoint in topics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema, FromRow)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Thing {
    pub(crate) thing_name: String,
    pub(crate) endpoint_id: String,
    pub(crate) application_name: String,
    /// Ids of the client credentials (ccm) with which a client is the thing.
    pub(crate) credentials_ids: Vec<String>,
    #[sqlx(rename = "created_at")]
    pub(crate) created_date: DateTime<Utc>,
}

/// Client credentials with which an application may command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema, FromRow)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Commander {
    pub(crate) credentials_id: String,
    /// The applications whose endpoints may be commanded; absent: all of the tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) application_names: Option<Vec<String>>,
    #[sqlx(rename = "created_at")]
    pub(crate) created_date: DateTime<Utc>,
}

/// A name of an endpoint filter in topics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema, FromRow)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Group {
    pub(crate) group_name: String,
    pub(crate) filter_id: String,
    pub(crate) application_name: String,
    #[sqlx(rename = "created_at")]
    pub(crate) created_date: DateTime<Utc>,
}

/// The thing that a client is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) credentials_id: String,
    pub(super) thing: String,
    pub(super) endpoint_id: EndpointId,
}

/// What a client may command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) credentials_id: String,
    /// None: all applications of the tenant.
    applications: Option<BTreeSet<ApplicationName>>,
}

impl Command {
    /// None: all of the tenant.
    pub(super) fn applications(&self) -> Option<BTreeSet<ApplicationName>> {
        self.applications.clone()
    }

    pub(super) fn is_limited(&self) -> bool {
        self.applications.is_some()
    }

    pub(super) fn check(&self, application: &ApplicationName) -> Result<(), Error> {
        match &self.applications {
            Some(applications) if !applications.contains(application) => Err(Error::Forbidden(format!(
                "these credentials may not command in application {application}"
            ))),
            _ => Ok(()),
        }
    }
}

/// The statements about them. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Registers {
    pool: PgPool,
}

const THING: &str = "thing_name, endpoint_id, application_name, created_at, ARRAY(
    SELECT credentials_id FROM thing_credentials credentials
    WHERE credentials.tenant_id = things.tenant_id AND credentials.thing_name = things.thing_name
    ORDER BY credentials_id) AS credentials_ids";

impl Registers {
    pub(crate) fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Names an endpoint, and says which clients it is. Of two that name the same at once the later wins.
    ///
    /// # Errors
    /// When one of the credentials is another thing's.
    pub(crate) async fn put_thing(
        &self,
        tenant: &TenantId,
        thing: &ThingName,
        endpoint: (&EndpointId, &ApplicationName),
        credentials_ids: &[String],
    ) -> Result<(), Error> {
        let mut transaction = self.pool.begin().await?;
        let before: Option<String> = sqlx::query_scalar(
            "SELECT endpoint_id FROM things WHERE tenant_id = $1 AND thing_name = $2 FOR UPDATE",
        )
        .bind(tenant.as_str())
        .bind(thing.as_str())
        .fetch_optional(&mut *transaction)
        .await?;
        if let Some(before) = before.filter(|before| before != endpoint.0.as_str()) {
            leave_topics(&mut transaction, tenant, &before).await?;
        }
        sqlx::query(
            "INSERT INTO things (tenant_id, thing_name, endpoint_id, application_name) VALUES ($1, $2, $3, $4)
             ON CONFLICT (tenant_id, thing_name) DO UPDATE SET endpoint_id = $3, application_name = $4",
        )
        .bind(tenant.as_str())
        .bind(thing.as_str())
        .bind(endpoint.0.as_str())
        .bind(endpoint.1.as_str())
        .execute(&mut *transaction)
        .await?;
        sqlx::query("DELETE FROM thing_credentials WHERE tenant_id = $1 AND thing_name = $2")
            .bind(tenant.as_str())
            .bind(thing.as_str())
            .execute(&mut *transaction)
            .await?;
        // In one order everywhere, so that two who want the same do not wait for each other.
        let bound: Vec<String> = sqlx::query_scalar(
            "INSERT INTO thing_credentials (tenant_id, credentials_id, thing_name)
             SELECT $1, wanted, $2 FROM (SELECT DISTINCT unnest($3::text[]) COLLATE \"C\" AS wanted) AS them
             ORDER BY wanted ON CONFLICT DO NOTHING RETURNING credentials_id",
        )
        .bind(tenant.as_str())
        .bind(thing.as_str())
        .bind(credentials_ids)
        .fetch_all(&mut *transaction)
        .await?;
        if let Some(taken) = credentials_ids.iter().find(|id| !bound.contains(id)) {
            return Err(Error::Conflict(format!(
                "credentials {taken} belong to another thing: one client is one thing, so take them from that first"
            )));
        }
        transaction.commit().await?;
        Ok(())
    }

    pub(crate) async fn thing(&self, tenant: &TenantId, thing: &ThingName) -> sqlx::Result<Option<Thing>> {
        let sql = format!("SELECT {THING} FROM things WHERE tenant_id = $1 AND thing_name = $2");
        sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(tenant.as_str())
            .bind(thing.as_str())
            .fetch_optional(&self.pool)
            .await
    }

    /// A page of the things of these applications (none: of all), and how many there are in all.
    pub(crate) async fn things(
        &self,
        tenant: &TenantId,
        endpoint: Option<&EndpointId>,
        applications: Option<&BTreeSet<ApplicationName>>,
        (offset, limit): (i64, i64),
    ) -> sqlx::Result<(i64, Vec<Thing>)> {
        const WHERE: &str = "tenant_id = $1 AND ($2::text IS NULL OR endpoint_id = $2)
            AND ($3::text[] IS NULL OR application_name = ANY($3))";
        let applications: Option<Vec<&str>> =
            applications.map(|names| names.iter().map(ApplicationName::as_str).collect());
        let endpoint = endpoint.map(EndpointId::as_str);
        let total =
            sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM things WHERE {WHERE}")))
                .bind(tenant.as_str())
                .bind(endpoint)
                .bind(applications.as_deref())
                .fetch_one(&self.pool)
                .await?;
        let sql = format!("SELECT {THING} FROM things WHERE {WHERE} ORDER BY thing_name OFFSET $4 LIMIT $5");
        let things = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(tenant.as_str())
            .bind(endpoint)
            .bind(applications.as_deref())
            .bind(offset)
            .bind(limit)
            .fetch_all(&self.pool)
            .await?;
        Ok((total, things))
    }

    /// Which things a client with these credentials is.
    pub(super) async fn bound(
        &self,
        tenant: &TenantId,
        credentials_ids: &[String],
    ) -> sqlx::Result<Vec<Bound>> {
        let rows: Vec<(String, String, String)> = sqlx::query_as(
            "SELECT credentials_id, thing_name, endpoint_id
             FROM thing_credentials JOIN things USING (tenant_id, thing_name)
             WHERE tenant_id = $1 AND credentials_id = ANY($2) ORDER BY credentials_id",
        )
        .bind(tenant.as_str())
        .bind(credentials_ids)
        .fetch_all(&self.pool)
        .await?;
        let bound = rows.into_iter().filter_map(|(credentials_id, thing, endpoint_id)| {
            Some(Bound { credentials_id, thing, endpoint_id: EndpointId::parse(&endpoint_id).ok()? })
        });
        Ok(bound.collect())
    }

    /// The credentials with which a client is the endpoint, by whatever name.
    pub(super) async fn credentials_of(
        &self,
        tenant: &TenantId,
        endpoint: &EndpointId,
    ) -> sqlx::Result<Vec<String>> {
        sqlx::query_scalar(
            "SELECT credentials_id FROM things JOIN thing_credentials USING (tenant_id, thing_name)
             WHERE tenant_id = $1 AND endpoint_id = $2",
        )
        .bind(tenant.as_str())
        .bind(endpoint.as_str())
        .fetch_all(&self.pool)
        .await
    }

    /// What a client with these credentials may command; none: nothing.
    pub(super) async fn command(
        &self,
        tenant: &TenantId,
        credentials_ids: &[String],
    ) -> sqlx::Result<Option<Command>> {
        let rows: Vec<(String, Option<Vec<String>>)> = sqlx::query_as(
            "SELECT credentials_id, application_names FROM commanders
             WHERE tenant_id = $1 AND credentials_id = ANY($2) ORDER BY credentials_id",
        )
        .bind(tenant.as_str())
        .bind(credentials_ids)
        .fetch_all(&self.pool)
        .await?;
        // Whoever shows two credentials may what both may.
        Ok(rows.into_iter().fold(None, |command, (credentials_id, names)| {
            let names: Option<BTreeSet<_>> = names
                .map(|names| names.iter().filter_map(|name| ApplicationName::parse(name).ok()).collect());
            Some(match command {
                None => Command { credentials_id, applications: names },
                Some(Command { credentials_id, applications }) => {
                    let both = applications.zip(names).map(|(mut some, others)| {
                        some.extend(others);
                        some
                    });
                    Command { credentials_id, applications: both }
                }
            })
        }))
    }

    /// Lets an application command.
    pub(crate) async fn put_commander(
        &self,
        tenant: &TenantId,
        credentials_id: &str,
        applications: Option<&[ApplicationName]>,
    ) -> sqlx::Result<()> {
        let applications: Option<Vec<&str>> =
            applications.map(|names| names.iter().map(ApplicationName::as_str).collect());
        sqlx::query(
            "INSERT INTO commanders (tenant_id, credentials_id, application_names) VALUES ($1, $2, $3)
             ON CONFLICT (tenant_id, credentials_id) DO UPDATE SET application_names = $3",
        )
        .bind(tenant.as_str())
        .bind(credentials_id)
        .bind(applications)
        .execute(&self.pool)
        .await
        .map(drop)
    }

    pub(crate) async fn commander(
        &self,
        tenant: &TenantId,
        credentials_id: &str,
    ) -> sqlx::Result<Option<Commander>> {
        sqlx::query_as(
            "SELECT credentials_id, application_names, created_at FROM commanders
             WHERE tenant_id = $1 AND credentials_id = $2",
        )
        .bind(tenant.as_str())
        .bind(credentials_id)
        .fetch_optional(&self.pool)
        .await
    }

    /// A page of the commanders, and how many there are in all.
    pub(crate) async fn commanders(
        &self,
        tenant: &TenantId,
        (offset, limit): (i64, i64),
    ) -> sqlx::Result<(i64, Vec<Commander>)> {
        let total = sqlx::query_scalar("SELECT count(*) FROM commanders WHERE tenant_id = $1")
            .bind(tenant.as_str())
            .fetch_one(&self.pool)
            .await?;
        let commanders = sqlx::query_as(
            "SELECT credentials_id, application_names, created_at FROM commanders WHERE tenant_id = $1
             ORDER BY credentials_id OFFSET $2 LIMIT $3",
        )
        .bind(tenant.as_str())
        .bind(offset)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        Ok((total, commanders))
    }

    /// Names a filter.
    pub(crate) async fn put_group(
        &self,
        tenant: &TenantId,
        group: &CommandType,
        filter_id: &str,
        application: &ApplicationName,
    ) -> sqlx::Result<()> {
        sqlx::query(
            "INSERT INTO groups (tenant_id, group_name, filter_id, application_name) VALUES ($1, $2, $3, $4)
             ON CONFLICT (tenant_id, group_name) DO UPDATE SET filter_id = $3, application_name = $4",
        )
        .bind(tenant.as_str())
        .bind(group.as_str())
        .bind(filter_id)
        .bind(application.as_str())
        .execute(&self.pool)
        .await
        .map(drop)
    }

    pub(crate) async fn group(&self, tenant: &TenantId, group: &CommandType) -> sqlx::Result<Option<Group>> {
        sqlx::query_as(
            "SELECT group_name, filter_id, application_name, created_at FROM groups
             WHERE tenant_id = $1 AND group_name = $2",
        )
        .bind(tenant.as_str())
        .bind(group.as_str())
        .fetch_optional(&self.pool)
        .await
    }

    /// A page of the groups of these applications (none: of all), and how many there are in all.
    pub(crate) async fn groups(
        &self,
        tenant: &TenantId,
        applications: Option<&BTreeSet<ApplicationName>>,
        (offset, limit): (i64, i64),
    ) -> sqlx::Result<(i64, Vec<Group>)> {
        let applications: Option<Vec<&str>> =
            applications.map(|names| names.iter().map(ApplicationName::as_str).collect());
        let total = sqlx::query_scalar(
            "SELECT count(*) FROM groups
             WHERE tenant_id = $1 AND ($2::text[] IS NULL OR application_name = ANY($2))",
        )
        .bind(tenant.as_str())
        .bind(applications.as_deref())
        .fetch_one(&self.pool)
        .await?;
        let groups = sqlx::query_as(
            "SELECT group_name, filter_id, application_name, created_at FROM groups
             WHERE tenant_id = $1 AND ($2::text[] IS NULL OR application_name = ANY($2))
             ORDER BY group_name OFFSET $3 LIMIT $4",
        )
        .bind(tenant.as_str())
        .bind(applications.as_deref())
        .bind(offset)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        Ok((total, groups))
    }

    /// Takes a name from an endpoint.
    pub(crate) async fn remove_thing(&self, tenant: &TenantId, thing: &ThingName) -> sqlx::Result<()> {
        let mut transaction = self.pool.begin().await?;
        let endpoint: Option<String> = sqlx::query_scalar(
            "DELETE FROM things WHERE tenant_id = $1 AND thing_name = $2 RETURNING endpoint_id",
        )
        .bind(tenant.as_str())
        .bind(thing.as_str())
        .fetch_optional(&mut *transaction)
        .await?;
        if let Some(endpoint) = endpoint {
            leave_topics(&mut transaction, tenant, &endpoint).await?;
        }
        transaction.commit().await
    }

    /// Takes the right to command away; answers whether there was one.
    pub(crate) async fn remove_commander(
        &self,
        tenant: &TenantId,
        credentials_id: &str,
    ) -> sqlx::Result<bool> {
        let deleted = sqlx::query("DELETE FROM commanders WHERE tenant_id = $1 AND credentials_id = $2")
            .bind(tenant.as_str())
            .bind(credentials_id)
            .execute(&self.pool)
            .await?;
        Ok(deleted.rows_affected() > 0)
    }

    /// Takes the name from a filter.
    pub(crate) async fn remove_group(&self, tenant: &TenantId, group: &CommandType) -> sqlx::Result<()> {
        sqlx::query("DELETE FROM groups WHERE tenant_id = $1 AND group_name = $2")
            .bind(tenant.as_str())
            .bind(group.as_str())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Forgets the names of an endpoint that it had by then.
    pub(crate) async fn forget_endpoint(
        &self,
        endpoint: &EndpointId,
        until: DateTime<Utc>,
    ) -> sqlx::Result<()> {
        sqlx::query("DELETE FROM things WHERE endpoint_id = $1 AND created_at <= $2")
            .bind(endpoint.as_str())
            .bind(until)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

/// An endpoint that has lost a name is pushed to over 1/KP, until it listens at a topic again.
async fn leave_topics(
    connection: &mut PgConnection,
    tenant: &TenantId,
    endpoint_id: &str,
) -> sqlx::Result<()> {
    // In the order in which the ledger locks lanes.
    sqlx::query(
        "WITH lost AS (
             SELECT command_type AS of_type FROM lanes
             WHERE tenant_id = $1 AND endpoint_id = $2 AND topic IS NOT NULL ORDER BY command_type FOR UPDATE)
         UPDATE lanes SET topic = NULL FROM lost
         WHERE tenant_id = $1 AND endpoint_id = $2 AND command_type = of_type",
    )
    .bind(tenant.as_str())
    .bind(endpoint_id)
    .execute(connection)
    .await?;
    Ok(())
}
