//! Service instances.

use chrono::{DateTime, Utc};
use ids::InstanceName;
use sqlx::PgConnection;

use super::Store;
use crate::error::Error;
use crate::instances::Description;

/// Keeps one lock for all announcements of new instances, so that their number has a limit.
const INSTANCES_LOCK: i64 = 0x7465_6b32;

impl Store {
    /// Keeps what an instance says of itself; what it said before is forgotten.
    pub(crate) async fn announce(&self, instance: &InstanceName, json: &[u8]) -> Result<(), Error> {
        let (bytes, max) = (json.len(), self.limits.description_bytes_max);
        if bytes > max {
            return Err(Error::DescriptionTooLarge { bytes, max });
        }
        let description = Description::read(instance, json)?;
        let text = serde_json::to_string(&description).map_err(Error::Stored)?;
        if update(&self.pool, instance, &text).await? {
            return Ok(());
        }
        let mut transaction = self.pool.begin().await?;
        sqlx::query("SELECT pg_advisory_xact_lock($1)")
            .bind(INSTANCES_LOCK)
            .execute(&mut *transaction)
            .await?;
        let inserted = sqlx::query(
            "INSERT INTO service_instances (name, description)
             SELECT $1, $2::json WHERE (SELECT count(*) FROM service_instances WHERE name <> $1) < $3
             ON CONFLICT ON CONSTRAINT service_instances_pkey
                 DO UPDATE SET description = excluded.description, announced_at = now()",
        )
        .bind(instance.as_str())
        .bind(&text)
        .bind(self.limits.service_instances_max)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        if inserted.rows_affected() == 0 {
            return Err(Error::TooManyInstances(self.limits.service_instances_max));
        }
        Ok(())
    }

    /// All instances in the order of their names, and when each announced itself last.
    pub(crate) async fn instances(&self) -> Result<Vec<(Description, DateTime<Utc>)>, Error> {
        let rows: Vec<(String, DateTime<Utc>)> =
            sqlx::query_as("SELECT description::text, announced_at FROM service_instances ORDER BY name")
                .fetch_all(&self.pool)
                .await?;
        rows.into_iter().map(|(text, announced)| Ok((parse(&text)?, announced))).collect()
    }

    /// One instance.
    pub(crate) async fn instance(&self, name: &InstanceName) -> Result<(Description, DateTime<Utc>), Error> {
        let row: Option<(String, DateTime<Utc>)> =
            sqlx::query_as("SELECT description::text, announced_at FROM service_instances WHERE name = $1")
                .bind(name.as_str())
                .fetch_optional(&self.pool)
                .await?;
        let (text, announced) = row.ok_or_else(|| Error::NoSuchInstance(name.clone()))?;
        Ok((parse(&text)?, announced))
    }

    /// Whether all of these have announced themselves.
    pub(crate) async fn knows(&self, instances: &[&str]) -> Result<bool, Error> {
        let unknown: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM unnest($1::text[]) AS named (name)
                            WHERE NOT EXISTS (SELECT FROM service_instances AS known WHERE known.name = named.name))",
        )
        .bind(instances)
        .fetch_one(&self.pool)
        .await?;
        Ok(!unknown)
    }

    /// What a block's service says of itself.
    pub(super) async fn description(
        &self,
        connection: &mut PgConnection,
        instance: &InstanceName,
    ) -> Result<Description, Error> {
        let text: Option<String> =
            sqlx::query_scalar("SELECT description::text FROM service_instances WHERE name = $1")
                .bind(instance.as_str())
                .fetch_optional(&mut *connection)
                .await?;
        if let Some(text) = text {
            return parse(&text);
        }
        let known: Vec<String> = sqlx::query_scalar("SELECT name FROM service_instances ORDER BY name")
            .fetch_all(connection)
            .await?;
        Err(Error::UnknownInstance { name: instance.clone(), known })
    }
}

fn parse(text: &str) -> Result<Description, Error> {
    serde_json::from_str(text).map_err(Error::Stored)
}

/// Whether the instance is known already.
async fn update(pool: &sqlx::PgPool, instance: &InstanceName, text: &str) -> Result<bool, Error> {
    let updated = sqlx::query(
        "UPDATE service_instances SET description = $2::json, announced_at = now() WHERE name = $1",
    )
    .bind(instance.as_str())
    .bind(text)
    .execute(pool)
    .await?;
    Ok(updated.rows_affected() > 0)
}
