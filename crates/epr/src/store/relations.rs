//! Relations between endpoints.

use std::collections::BTreeSet;

use ids::{EndpointId, TenantId};
use sqlx::{Connection as _, PgConnection};

use super::Store;
use crate::domain::{Relation, RelationType};
use crate::error::Error;

/// Endpoints that may contain the same endpoint directly.
const CONTAINERS_MAX: i64 = 16;
/// Pairs of an endpoint and what it is contained in, at any distance, that are looked at to find a cycle.
const ANCESTRY_MAX: i64 = 100_000;

impl Store {
    /// All relations of an endpoint, in either direction, of one type or of all. Their number is bounded where they are
    /// made.
    pub(crate) async fn relations(
        &self,
        tenant: &TenantId,
        endpoint_id: &EndpointId,
        relation_type: Option<RelationType>,
    ) -> Result<Vec<Relation>, Error> {
        let rows: Vec<(String, String, String)> = sqlx::query_as(
            "SELECT relation_type, from_endpoint_id, to_endpoint_id FROM endpoint_relations
             WHERE (from_endpoint_id = $1 OR to_endpoint_id = $1) AND tenant_id = $2
                 AND ($3::text IS NULL OR relation_type = $3)
             ORDER BY relation_type, from_endpoint_id, to_endpoint_id",
        )
        .bind(endpoint_id.as_str())
        .bind(tenant.as_str())
        .bind(relation_type.map(RelationType::as_str))
        .fetch_all(&self.pool)
        .await?;
        // There is one type; a row of a newer version's type is not shown by this one.
        let known = rows.into_iter().filter(|(name, ..)| name == RelationType::Contains.as_str());
        known
            .map(|(_, from, to)| {
                let (from, to) = (EndpointId::parse(&from)?, EndpointId::parse(&to)?);
                Ok(Relation { relation_type: RelationType::Contains, from, to })
            })
            .collect()
    }

    /// Makes relations: all or none. Those that there are stay.
    pub(crate) async fn link(
        &self,
        tenant: &TenantId,
        relations: &[Relation],
        relations_max: i64,
    ) -> Result<(), Error> {
        let mut connection = self.pool.acquire().await?;
        let mut transaction = connection.begin().await?;
        link(&mut transaction, tenant, relations, relations_max).await?;
        Ok(transaction.commit().await?)
    }

    /// Removes relations; those that are not there are gone already.
    pub(crate) async fn unlink(&self, tenant: &TenantId, relations: &[Relation]) -> Result<(), Error> {
        let (types, from, to) = columns(relations);
        sqlx::query(
            "DELETE FROM endpoint_relations AS relation USING unnest($2::text[], $3::text[], $4::text[])
                 AS given (relation_type, from_endpoint_id, to_endpoint_id)
             WHERE relation.tenant_id = $1 AND relation.relation_type = given.relation_type
                 AND relation.from_endpoint_id = given.from_endpoint_id
                 AND relation.to_endpoint_id = given.to_endpoint_id",
        )
        .bind(tenant.as_str())
        .bind(types)
        .bind(from)
        .bind(to)
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

fn columns(relations: &[Relation]) -> (Vec<&str>, Vec<&str>, Vec<&str>) {
    let types = relations.iter().map(|relation| relation.relation_type.as_str()).collect();
    let from = relations.iter().map(|relation| relation.from.as_str()).collect();
    let to = relations.iter().map(|relation| relation.to.as_str()).collect();
    (types, from, to)
}

/// Makes relations within a transaction.
pub(super) async fn link(
    connection: &mut PgConnection,
    tenant: &TenantId,
    relations: &[Relation],
    relations_max: i64,
) -> Result<(), Error> {
    if relations.is_empty() {
        return Ok(());
    }
    // Two transactions could otherwise make one half of a cycle each.
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))")
        .bind(format!("epr/relations/{tenant}"))
        .execute(&mut *connection)
        .await?;
    check_ends(connection, tenant, relations).await?;
    let (types, from, to) = columns(relations);
    sqlx::query(
        "INSERT INTO endpoint_relations (tenant_id, relation_type, from_endpoint_id, to_endpoint_id)
         SELECT $1, given.* FROM unnest($2::text[], $3::text[], $4::text[]) AS given ON CONFLICT DO NOTHING",
    )
    .bind(tenant.as_str())
    .bind(types)
    .bind(&from)
    .bind(&to)
    .execute(&mut *connection)
    .await?;
    check_numbers(connection, &from, &to, relations_max).await?;
    check_cycles(connection, &to).await
}

/// Both ends are endpoints of the tenant, and stay so until the transaction ends.
async fn check_ends(
    connection: &mut PgConnection,
    tenant: &TenantId,
    relations: &[Relation],
) -> Result<(), Error> {
    let ends: BTreeSet<&EndpointId> =
        relations.iter().flat_map(|relation| [&relation.from, &relation.to]).collect();
    let ids: Vec<&str> = ends.iter().map(|end| end.as_str()).collect();
    let found: Vec<String> = sqlx::query_scalar(
        "SELECT endpoint_id FROM endpoints
         WHERE endpoint_id = ANY ($1) AND tenant_id = $2 AND registered_at IS NOT NULL
         ORDER BY endpoint_id FOR KEY SHARE",
    )
    .bind(ids)
    .bind(tenant.as_str())
    .fetch_all(connection)
    .await?;
    let found: BTreeSet<&str> = found.iter().map(String::as_str).collect();
    match ends.into_iter().find(|end| !found.contains(end.as_str())) {
        Some(missing) => Err(Error::UnknownEndpoint(missing.clone())),
        None => Ok(()),
    }
}

async fn check_numbers(
    connection: &mut PgConnection,
    from: &[&str],
    to: &[&str],
    relations_max: i64,
) -> Result<(), Error> {
    let full: Option<String> = sqlx::query_scalar(
        "SELECT from_endpoint_id FROM endpoint_relations WHERE from_endpoint_id = ANY ($1)
         GROUP BY from_endpoint_id HAVING count(*) > $2 LIMIT 1",
    )
    .bind(from)
    .bind(relations_max)
    .fetch_optional(&mut *connection)
    .await?;
    if let Some(endpoint_id) = full {
        return Err(Error::Refused(format!(
            "endpoint {endpoint_id} would contain more than {relations_max} endpoints (epr.relations_per_endpoint_max)"
        )));
    }
    let full: Option<String> = sqlx::query_scalar(
        "SELECT to_endpoint_id FROM endpoint_relations WHERE to_endpoint_id = ANY ($1)
         GROUP BY to_endpoint_id HAVING count(*) > $2 LIMIT 1",
    )
    .bind(to)
    .bind(CONTAINERS_MAX)
    .fetch_optional(connection)
    .await?;
    match full {
        Some(endpoint_id) => Err(Error::Refused(format!(
            "endpoint {endpoint_id} would be contained in more than {CONTAINERS_MAX} endpoints"
        ))),
        None => Ok(()),
    }
}

/// A new cycle goes through a new relation, so that the end of one of them contains itself.
async fn check_cycles(connection: &mut PgConnection, to: &[&str]) -> Result<(), Error> {
    let (looked_at, cyclic): (i64, Option<String>) = sqlx::query_as(
        "WITH RECURSIVE above (endpoint_id, container_id) AS (
             SELECT to_endpoint_id, from_endpoint_id FROM endpoint_relations WHERE to_endpoint_id = ANY ($1)
             UNION
             SELECT above.endpoint_id, relation.from_endpoint_id
             FROM above JOIN endpoint_relations AS relation ON relation.to_endpoint_id = above.container_id
         )
         SELECT count(*), min(endpoint_id) FILTER (WHERE endpoint_id = container_id)
         FROM (SELECT * FROM above LIMIT $2 + 1) AS looked_at",
    )
    .bind(to)
    .bind(ANCESTRY_MAX)
    .fetch_one(connection)
    .await?;
    match cyclic {
        Some(endpoint_id) => Err(Error::Conflict(format!(
            "endpoint {endpoint_id} would contain itself through other endpoints"
        ))),
        None if looked_at > ANCESTRY_MAX => Err(Error::Refused(format!(
            "the endpoints are contained in each other {ANCESTRY_MAX} times and more: link fewer at once"
        ))),
        None => Ok(()),
    }
}
