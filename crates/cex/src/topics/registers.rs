//! Who is who on topics: things, commanders and groups.

mod commanders;
mod groups;

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use ids::{ApplicationName, EndpointId, TenantId, ThingName};
use serde::Serialize;
use sqlx::{FromRow, PgConnection, PgPool};
use utoipa::ToSchema;

pub(super) use commanders::Command;
pub(crate) use commanders::Commander;
pub(crate) use groups::Group;

use super::name::request_topic;
use crate::domain::Lane;
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

/// The thing that a client is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) credentials_id: String,
    pub(super) thing: String,
    pub(super) endpoint_id: EndpointId,
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
    /// When one of the credentials is another thing's, or the name is that of an endpoint out of the caller's `reach` (none: all
    /// applications).
    pub(crate) async fn put_thing(
        &self,
        tenant: &TenantId,
        thing: &ThingName,
        endpoint: (&EndpointId, &ApplicationName),
        credentials_ids: &[String],
        reach: Option<&BTreeSet<ApplicationName>>,
    ) -> Result<(), Error> {
        let mut transaction = self.pool.begin().await?;
        let before: Option<String> = sqlx::query_scalar(
            "SELECT endpoint_id FROM things WHERE tenant_id = $1 AND thing_name = $2 FOR UPDATE",
        )
        .bind(tenant.as_str())
        .bind(thing.as_str())
        .fetch_optional(&mut *transaction)
        .await?;
        let is_left = |before: &String| before != endpoint.0.as_str() || credentials_ids.is_empty();
        if let Some(before) = before.filter(is_left) {
            leave_topics(&mut transaction, tenant, thing, &before).await?;
        }
        let written = sqlx::query(
            "INSERT INTO things (tenant_id, thing_name, endpoint_id, application_name) VALUES ($1, $2, $3, $4)
             ON CONFLICT (tenant_id, thing_name) DO UPDATE SET endpoint_id = $3, application_name = $4,
                 created_at = CASE things.endpoint_id WHEN $3 THEN things.created_at ELSE now() END
                 WHERE $5::text[] IS NULL OR things.application_name = ANY($5)",
        )
        .bind(tenant.as_str())
        .bind(thing.as_str())
        .bind(endpoint.0.as_str())
        .bind(endpoint.1.as_str())
        .bind(names(reach))
        .execute(&mut *transaction)
        .await?;
        if written.rows_affected() == 0 {
            return Err(Error::Forbidden(format!(
                "{thing} is the name of an endpoint of another application, where you have no role that allows this"
            )));
        }
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
        let applications = names(applications);
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

    /// At how many topics beside that of this lane the endpoint listens.
    pub(super) async fn topics_beside(&self, lane: &Lane) -> sqlx::Result<i64> {
        sqlx::query_scalar(
            "SELECT count(*) FROM lanes
             WHERE tenant_id = $1 AND endpoint_id = $2 AND command_type <> $3 AND topic IS NOT NULL",
        )
        .bind(lane.tenant.as_str())
        .bind(lane.endpoint_id.as_str())
        .bind(lane.command_type.as_str())
        .fetch_one(&self.pool)
        .await
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
            leave_topics(&mut transaction, tenant, thing, &endpoint).await?;
        }
        transaction.commit().await
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

fn names(applications: Option<&BTreeSet<ApplicationName>>) -> Option<Vec<&str>> {
    applications.map(|names| names.iter().map(ApplicationName::as_str).collect())
}

/// An endpoint that has lost a name, or the clients that it was, is pushed to over 1/KP where it listened as such, until it listens
/// at a topic again. Groups know no names: there it goes on as long as any client is the endpoint.
async fn leave_topics(
    connection: &mut PgConnection,
    tenant: &TenantId,
    thing: &ThingName,
    endpoint_id: &str,
) -> sqlx::Result<()> {
    // In the order in which the ledger locks lanes.
    sqlx::query(
        "WITH lost AS (
             SELECT command_type AS of_type FROM lanes
             WHERE tenant_id = $1 AND endpoint_id = $2 AND (topic = $4 OR topic LIKE '%/request' AND NOT EXISTS (
                 SELECT FROM things JOIN thing_credentials USING (tenant_id, thing_name)
                 WHERE things.tenant_id = $1 AND things.endpoint_id = $2 AND thing_name <> $3))
             ORDER BY command_type FOR UPDATE)
         UPDATE lanes SET topic = NULL FROM lost
         WHERE tenant_id = $1 AND endpoint_id = $2 AND command_type = of_type",
    )
    .bind(tenant.as_str())
    .bind(endpoint_id)
    .bind(thing.as_str())
    .bind(request_topic(thing))
    .execute(connection)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::MIGRATOR;

    #[tokio::test]
    async fn a_name_in_another_application_is_not_taken_by_who_has_no_role_there() {
        let database = testkit::database().await;
        let pool = PgPool::connect(&database.url).await.unwrap();
        MIGRATOR.run(&pool).await.unwrap();
        let registers = Registers::new(pool);
        let tenant = TenantId::parse("acme").unwrap();
        let application = |name: &str| ApplicationName::parse(name).unwrap();
        let (meter, pump) = (application("meter"), application("pump"));
        let (thing, group) = (ThingName::parse("lamp").unwrap(), ids::CommandType::parse("floor").unwrap());
        let endpoint = EndpointId::parse("e1").unwrap();
        let (own, others) = (BTreeSet::from([meter.clone()]), BTreeSet::from([pump.clone()]));
        let put = async |application: &ApplicationName, reach: Option<&BTreeSet<ApplicationName>>| {
            let named = registers.put_thing(&tenant, &thing, (&endpoint, application), &[], reach).await;
            let grouped = registers.put_group(&tenant, &group, "f", application, reach).await;
            assert_eq!(named.is_ok(), grouped.is_ok());
            named
        };
        put(&meter, Some(&own)).await.unwrap();
        put(&meter, Some(&own)).await.unwrap();
        assert!(matches!(put(&pump, Some(&others)).await, Err(Error::Forbidden(_))));
        assert_eq!(registers.thing(&tenant, &thing).await.unwrap().unwrap().application_name, "meter");
        put(&pump, None).await.unwrap();
        assert_eq!(registers.group(&tenant, &group).await.unwrap().unwrap().application_name, "pump");
    }
}
