//! Orders to register many endpoints.

use std::time::Duration;

use chrono::{DateTime, Utc};
use ids::{AppVersionName, ApplicationName, EndpointId, TenantId};
use sqlx::types::Json;
use sqlx::{Connection as _, FromRow, PgConnection};
use uuid::Uuid;

use super::Store;
use crate::error::Error;
use crate::metadata::Metadata;

/// A new order.
#[derive(Debug)]
pub(crate) struct NewTask {
    pub(crate) task_id: Uuid,
    pub(crate) tenant: TenantId,
    pub(crate) application: ApplicationName,
    pub(crate) version: AppVersionName,
    /// Names the key that the tokens are sealed with.
    pub(crate) key_id: String,
    pub(crate) items: Vec<NewItem>,
}

/// An endpoint in a new order.
#[derive(Debug)]
pub(crate) struct NewItem {
    pub(crate) endpoint_id: EndpointId,
    /// The token wished for, sealed.
    pub(crate) token: Option<Vec<u8>>,
    pub(crate) metadata: Metadata,
}

/// An order that is worked on.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(crate) task_id: Uuid,
    pub(crate) tenant: TenantId,
    pub(crate) version: AppVersionName,
    pub(crate) created_at: DateTime<Utc>,
}

/// Which endpoint of which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ItemKey {
    pub(crate) task_id: Uuid,
    pub(crate) position: i32,
}

/// An endpoint of an order that is registered, with its token sealed.
#[derive(Debug)]
pub(crate) struct MadeItem {
    pub(crate) key: ItemKey,
    pub(crate) token: Vec<u8>,
}

/// How far an endpoint of an order is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Pending,
    Created,
    Failed,
}

/// An endpoint of an order.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) key: ItemKey,
    pub(crate) endpoint_id: EndpointId,
    /// Sealed.
    pub(crate) token: Option<Vec<u8>>,
    pub(crate) metadata: Metadata,
    pub(crate) outcome: Outcome,
    pub(crate) reason: Option<String>,
}

#[derive(FromRow)]
struct TaskRow {
    task_id: Uuid,
    tenant_id: String,
    app_version_name: String,
    created_at: DateTime<Utc>,
}

#[derive(FromRow)]
struct ItemRow {
    task_id: Uuid,
    position: i32,
    endpoint_id: String,
    token: Option<Vec<u8>>,
    metadata: Json<Metadata>,
    status: String,
    status_reason: Option<String>,
}

impl TryFrom<ItemRow> for Item {
    type Error = Error;

    fn try_from(row: ItemRow) -> Result<Self, Error> {
        Ok(Self {
            key: ItemKey { task_id: row.task_id, position: row.position },
            endpoint_id: EndpointId::parse(&row.endpoint_id)?,
            token: row.token,
            metadata: row.metadata.0,
            outcome: match row.status.as_str() {
                "CREATED" => Outcome::Created,
                "FAILED" => Outcome::Failed,
                _ => Outcome::Pending,
            },
            reason: row.status_reason,
        })
    }
}

impl Store {
    /// Takes an order, unless the tenant has `open_max` that are not finished.
    pub(crate) async fn add_task(&self, task: &NewTask, open_max: i64) -> Result<(), Error> {
        let mut connection = self.pool.acquire().await?;
        let mut transaction = connection.begin().await?;
        let added = sqlx::query(
            "INSERT INTO batch_tasks (task_id, tenant_id, application_name, app_version_name, key_id)
             SELECT $1, $2, $3, $4, $5
             WHERE (SELECT count(*) FROM batch_tasks WHERE tenant_id = $2 AND finished_at IS NULL) < $6",
        )
        .bind(task.task_id)
        .bind(task.tenant.as_str())
        .bind(task.application.as_str())
        .bind(task.version.as_str())
        .bind(&task.key_id)
        .bind(open_max)
        .execute(&mut *transaction)
        .await?;
        if added.rows_affected() == 0 {
            return Err(Error::TooManyTasks { max: open_max });
        }
        let ids: Vec<&str> = task.items.iter().map(|item| item.endpoint_id.as_str()).collect();
        let tokens: Vec<Option<&[u8]>> = task.items.iter().map(|item| item.token.as_deref()).collect();
        let metadata: Vec<Json<&Metadata>> = task.items.iter().map(|item| Json(&item.metadata)).collect();
        sqlx::query(
            "INSERT INTO batch_items (task_id, position, endpoint_id, token, metadata)
             SELECT $1, position::integer, endpoint_id, token, metadata
             FROM unnest($2::text[], $3::bytea[], $4::jsonb[]) WITH ORDINALITY
                 AS item (endpoint_id, token, metadata, position)",
        )
        .bind(task.task_id)
        .bind(ids)
        .bind(tokens)
        .bind(metadata)
        .execute(&mut *transaction)
        .await?;
        Ok(transaction.commit().await?)
    }

    /// Takes over the oldest order that nobody works on. Orders under another key are left to those who have it, but not
    /// longer than `patience`.
    pub(crate) async fn claim_task(
        &self,
        key_id: &str,
        hold: Duration,
        patience: Duration,
    ) -> Result<Option<Task>, Error> {
        let row: Option<TaskRow> = sqlx::query_as(
            "UPDATE batch_tasks SET leased_until = now() + make_interval(secs => $2)
             WHERE task_id = (
                 SELECT task_id FROM batch_tasks
                 WHERE finished_at IS NULL AND leased_until < now()
                     AND (key_id = $1 OR greatest(created_at, leased_until) < now() - make_interval(secs => $3))
                 ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED
             )
             RETURNING task_id, tenant_id, app_version_name, created_at",
        )
        .bind(key_id)
        .bind(hold.as_secs_f64())
        .bind(patience.as_secs_f64())
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| {
            Ok(Task {
                task_id: row.task_id,
                tenant: TenantId::parse(&row.tenant_id)?,
                version: AppVersionName::parse(&row.app_version_name)?,
                created_at: row.created_at,
            })
        })
        .transpose()
    }

    /// Keeps an order for longer.
    pub(crate) async fn hold_task(&self, task_id: Uuid, hold: Duration) -> Result<(), Error> {
        sqlx::query(
            "UPDATE batch_tasks SET leased_until = now() + make_interval(secs => $2) WHERE task_id = $1",
        )
        .bind(task_id)
        .bind(hold.as_secs_f64())
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Endpoints of an order behind a position that are not registered yet.
    pub(crate) async fn pending_items(
        &self,
        task_id: Uuid,
        after: i32,
        most: i64,
    ) -> Result<Vec<Item>, Error> {
        let rows: Vec<ItemRow> = sqlx::query_as(
            "SELECT task_id, position, endpoint_id, token, metadata, status, status_reason FROM batch_items
             WHERE task_id = $1 AND position > $2 AND status = 'PENDING' ORDER BY position LIMIT $3",
        )
        .bind(task_id)
        .bind(after)
        .bind(most)
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(Item::try_from).collect()
    }

    /// An endpoint of an order will not be registered.
    pub(crate) async fn item_failed(&self, key: ItemKey, reason: &str) -> Result<(), Error> {
        sqlx::query(
            "UPDATE batch_items SET status = 'FAILED', status_reason = $3
             WHERE task_id = $1 AND position = $2 AND status = 'PENDING'",
        )
        .bind(key.task_id)
        .bind(key.position)
        .bind(reason)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Finishes an order if nothing of it is pending.
    pub(crate) async fn finish_task(&self, task_id: Uuid) -> Result<bool, Error> {
        let finished = sqlx::query(
            "UPDATE batch_tasks SET finished_at = now() WHERE task_id = $1 AND NOT EXISTS (
                 SELECT FROM batch_items WHERE task_id = $1 AND status = 'PENDING'
             )",
        );
        Ok(finished.bind(task_id).execute(&self.pool).await?.rows_affected() > 0)
    }

    /// Forgets orders that were given long ago, with the tokens in them.
    pub(crate) async fn forget_tasks(&self, kept: Duration) -> Result<(), Error> {
        sqlx::query("DELETE FROM batch_tasks WHERE created_at < now() - make_interval(secs => $1)")
            .bind(kept.as_secs_f64())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// All endpoints of an order of the tenant's application, as they were given.
    pub(crate) async fn task_items(
        &self,
        tenant: &TenantId,
        application: &ApplicationName,
        task_id: Uuid,
    ) -> Result<Vec<Item>, Error> {
        let rows: Vec<ItemRow> = sqlx::query_as(
            "SELECT item.* FROM batch_tasks AS task JOIN batch_items AS item USING (task_id)
             WHERE task.task_id = $1 AND task.tenant_id = $2 AND task.application_name = $3 ORDER BY item.position",
        )
        .bind(task_id)
        .bind(tenant.as_str())
        .bind(application.as_str())
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(Item::try_from).collect()
    }
}

/// Notes, in the transaction that makes the endpoint visible, that it is registered: so both are true or none.
pub(super) async fn item_made(connection: &mut PgConnection, made: &MadeItem) -> Result<(), Error> {
    sqlx::query(
        "UPDATE batch_items SET status = 'CREATED', token = $3, status_reason = NULL
         WHERE task_id = $1 AND position = $2",
    )
    .bind(made.key.task_id)
    .bind(made.key.position)
    .bind(&made.token)
    .execute(connection)
    .await?;
    Ok(())
}
