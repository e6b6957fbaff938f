//! What is told of batches.

use chrono::{DateTime, Utc};
use futures::TryStreamExt as _;
use ids::{ApplicationName, CommandType, TenantId};
use sqlx::{AssertSqlSafe, FromRow, PgConnection};
use uuid::Uuid;

use super::Batches;
use super::store::{BatchState, Store};
use crate::domain::{BatchKey, Command, Payload, State};
use crate::error::Error;
use crate::ledger::LIST_BYTES_MAX;

/// A batch and how far it is. `pending`, `executed` and `expired` together are `total`.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(crate) key: BatchKey,
    pub(crate) task_id: Uuid,
    pub(crate) filter_id: Option<String>,
    pub(crate) command_type: String,
    pub(crate) payload: Option<Payload>,
    pub(crate) rate_per_second: Option<i32>,
    pub(crate) abort_failed_percent: Option<i32>,
    pub(crate) state: BatchState,
    pub(crate) reason: Option<String>,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) updated_at: DateTime<Utc>,
    pub(crate) ended_at: Option<DateTime<Utc>>,
    pub(crate) total: i64,
    /// Commands that have not ended, and endpoints whose command is still to be invoked.
    pub(crate) pending: i64,
    pub(crate) executed: i64,
    /// All that ended without a result, or were never invoked.
    pub(crate) expired: i64,
    /// Endpoints without a command, because it is still to be invoked or never will be.
    pub(crate) not_invoked: i64,
}

/// Which batches of an application, and in which order.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    pub(crate) command_type: Option<CommandType>,
    pub(crate) filter_id: Option<String>,
    pub(crate) sort: Sort,
    pub(crate) order: Order,
    pub(crate) offset: i64,
    pub(crate) limit: i64,
}

/// What batches are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Sort {
    CommandType,
    FilterId,
    #[default]
    CreatedAt,
    TaskId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Order {
    Ascending,
    #[default]
    Descending,
}

impl Sort {
    fn column(self) -> &'static str {
        match self {
            Self::CommandType => "command_type",
            Self::FilterId => "filter_id",
            Self::CreatedAt => "created_at",
            Self::TaskId => "task_id",
        }
    }
}

impl Order {
    fn keyword(self) -> &'static str {
        match self {
            Self::Ascending => "ASC",
            Self::Descending => "DESC",
        }
    }
}

/// One endpoint of a batch.
#[derive(Debug, Clone)]
pub(crate) struct Child {
    pub(crate) endpoint_id: String,
    /// None: there is no command.
    pub(crate) command: Option<(i32, State)>,
    /// Why there is no command and never will be.
    pub(crate) reason: Option<String>,
}

#[derive(FromRow)]
struct TaskRow {
    batch_key: i64,
    task_id: Uuid,
    filter_id: Option<String>,
    command_type: String,
    payload: Option<Vec<u8>>,
    payload_is_text: bool,
    rate_per_second: Option<i32>,
    abort_failed_percent: Option<i32>,
    state: String,
    reason: Option<String>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
    total: i32,
    pending: i64,
    executed: i64,
    not_invoked: i64,
}

#[derive(FromRow)]
struct ChildRow {
    endpoint_id: String,
    command_id: Option<i32>,
    state: Option<String>,
    reason: Option<String>,
}

impl TryFrom<TaskRow> for Task {
    type Error = sqlx::Error;

    fn try_from(row: TaskRow) -> sqlx::Result<Self> {
        let total = i64::from(row.total);
        Ok(Self {
            key: BatchKey(row.batch_key),
            task_id: row.task_id,
            filter_id: row.filter_id,
            command_type: row.command_type,
            payload: row.payload.map(|bytes| Payload::stored(bytes, row.payload_is_text)),
            rate_per_second: row.rate_per_second,
            abort_failed_percent: row.abort_failed_percent,
            state: BatchState::parse(&row.state)?,
            reason: row.reason,
            created_at: row.created_at,
            updated_at: row.updated_at,
            ended_at: row.ended_at,
            total,
            pending: row.pending,
            executed: row.executed,
            expired: total - row.pending - row.executed,
            not_invoked: row.not_invoked,
        })
    }
}

impl TryFrom<ChildRow> for Child {
    type Error = sqlx::Error;

    fn try_from(row: ChildRow) -> sqlx::Result<Self> {
        let state = row.state.map(|state| {
            State::parse(&state)
                .ok_or_else(|| sqlx::Error::Decode(format!("{state} is no state of a command").into()))
        });
        Ok(Self {
            endpoint_id: row.endpoint_id,
            command: row.command_id.zip(state.transpose()?),
            reason: row.reason,
        })
    }
}

impl Batches {
    /// Batches of an application, and how many there are in all.
    pub(crate) async fn tasks(
        &self,
        tenant: &TenantId,
        application: &ApplicationName,
        selection: &Selection,
    ) -> Result<(i64, Vec<Task>), Error> {
        let total = self.store.count(tenant, application, selection).await?;
        let connection = &mut self.store.pool.acquire().await?;
        let tasks = self.store.tasks(connection, tenant, application, selection, None).await?;
        Ok((total, tasks))
    }

    /// One batch of an application.
    ///
    /// # Errors
    /// When there is none such.
    pub(crate) async fn task(
        &self,
        tenant: &TenantId,
        application: &ApplicationName,
        task_id: Uuid,
    ) -> Result<Task, Error> {
        let connection = &mut self.store.pool.acquire().await?;
        self.store.task(connection, tenant, application, task_id).await
    }

    /// One batch of an application, and endpoints of it with what became of them, by endpoint id: both as of one moment.
    ///
    /// # Errors
    /// When there is none such.
    pub(crate) async fn task_with_children(
        &self,
        tenant: &TenantId,
        application: &ApplicationName,
        task_id: Uuid,
        (offset, limit): (i64, i64),
    ) -> Result<(Task, Vec<Child>), Error> {
        let mut transaction = self.store.pool.begin().await?;
        sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            .execute(&mut *transaction)
            .await?;
        let task = self.store.task(&mut transaction, tenant, application, task_id).await?;
        let children = self.store.children(&mut transaction, task.key, offset, limit).await?;
        transaction.commit().await?;
        Ok((task, children))
    }

    /// Commands of a batch by endpoint id, and how many there are in all.
    pub(crate) async fn commands(
        &self,
        batch: BatchKey,
        offset: i64,
        limit: i64,
    ) -> Result<(i64, Vec<Command>), Error> {
        self.ledger.of_batch(batch, offset, limit).await
    }
}

impl Store {
    pub(super) async fn count(
        &self,
        tenant: &TenantId,
        application: &ApplicationName,
        selection: &Selection,
    ) -> sqlx::Result<i64> {
        sqlx::query_scalar(
            "SELECT count(*) FROM batches WHERE tenant_id = $1 AND application_name = $2
                 AND ($3::text IS NULL OR command_type = $3) AND ($4::text IS NULL OR filter_id = $4)",
        )
        .bind(tenant.as_str())
        .bind(application.as_str())
        .bind(selection.command_type.as_ref().map(CommandType::as_str))
        .bind(&selection.filter_id)
        .fetch_one(&self.pool)
        .await
    }

    async fn task(
        &self,
        connection: &mut PgConnection,
        tenant: &TenantId,
        application: &ApplicationName,
        task_id: Uuid,
    ) -> Result<Task, Error> {
        let selection = Selection {
            command_type: None,
            filter_id: None,
            sort: Sort::default(),
            order: Order::default(),
            offset: 0,
            limit: 1,
        };
        let found = self.tasks(connection, tenant, application, &selection, Some(task_id)).await?;
        found.into_iter().next().ok_or(Error::Unknown("batch task of the application"))
    }

    pub(super) async fn tasks(
        &self,
        connection: &mut PgConnection,
        tenant: &TenantId,
        application: &ApplicationName,
        selection: &Selection,
        task_id: Option<Uuid>,
    ) -> Result<Vec<Task>, Error> {
        let keyword = selection.order.keyword();
        let order = format!("{} {keyword}, batch_key {keyword}", selection.sort.column());
        // Of batches that have ended the counts are known; those of the others are counted together. A target is taken away
        // after its command was written: so those that wait are what is left of all.
        let sql = format!(
            "WITH page AS (
                 SELECT * FROM batches WHERE tenant_id = $1 AND application_name = $2
                     AND ($3::text IS NULL OR command_type = $3) AND ($4::text IS NULL OR filter_id = $4)
                     AND ($5::uuid IS NULL OR task_id = $5)
                 ORDER BY {order} OFFSET $6 LIMIT $7),
             child AS (
                 SELECT batch_key, count(*) AS invoked, count(*) FILTER (WHERE state = 'EXECUTED') AS executed,
                     count(*) FILTER (WHERE state IN ('CREATED', 'SENT', 'DELIVERED')) AS pending
                 FROM commands WHERE batch_key IN (SELECT batch_key FROM page WHERE ended_at IS NULL)
                 GROUP BY batch_key),
             target AS (
                 SELECT batch_key, count(*) AS dropped FROM batch_targets
                 WHERE batch_key IN (SELECT batch_key FROM page) AND reason IS NOT NULL GROUP BY batch_key),
             known AS (
                 SELECT page.*, coalesce(executed_count, child.executed, 0) AS executed,
                     coalesce(child.pending, 0) AS outstanding, coalesce(target.dropped, 0) AS dropped,
                     CASE WHEN ended_at IS NULL
                         THEN greatest(total - coalesce(child.invoked, 0) - coalesce(target.dropped, 0), 0)
                         ELSE 0 END AS waiting
                 FROM page LEFT JOIN child USING (batch_key) LEFT JOIN target USING (batch_key))
             SELECT batch_key, task_id, filter_id, command_type, payload, payload_is_text, rate_per_second,
                 abort_failed_percent, state, reason, created_at, updated_at, ended_at, total, executed,
                 outstanding + waiting AS pending, waiting + dropped AS not_invoked
             FROM known ORDER BY {order}"
        );
        // The order is made of words of ours.
        let mut rows = sqlx::query_as::<_, TaskRow>(AssertSqlSafe(sql))
            .bind(tenant.as_str())
            .bind(application.as_str())
            .bind(selection.command_type.as_ref().map(CommandType::as_str))
            .bind(&selection.filter_id)
            .bind(task_id)
            .bind(selection.offset)
            .bind(selection.limit)
            .fetch(connection);
        // One after the other, so that never more than the limit is in memory.
        let (mut tasks, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.try_next().await? {
            bytes += row.payload.as_ref().map_or(0, Vec::len);
            if bytes > LIST_BYTES_MAX {
                return Err(Error::Refused(format!(
                    "the batches have more than {LIST_BYTES_MAX} bytes of payloads together; ask for fewer at once"
                )));
            }
            tasks.push(Task::try_from(row)?);
        }
        Ok(tasks)
    }

    pub(super) async fn children(
        &self,
        connection: &mut PgConnection,
        batch: BatchKey,
        offset: i64,
        limit: i64,
    ) -> sqlx::Result<Vec<Child>> {
        // An endpoint is once in a batch: so the pages stay as they are while commands are invoked. While there are its target
        // and its command, the command counts.
        let rows: Vec<ChildRow> = sqlx::query_as(
            "SELECT DISTINCT ON (endpoint_id) endpoint_id, command_id, state, reason FROM (
                 SELECT endpoint_id, command_id, state, NULL AS reason FROM commands WHERE batch_key = $1
                 UNION ALL
                 SELECT endpoint_id, NULL, NULL, reason FROM batch_targets WHERE batch_key = $1) AS child
             ORDER BY endpoint_id, command_id NULLS LAST OFFSET $2 LIMIT $3",
        )
        .bind(batch.0)
        .bind(offset)
        .bind(limit)
        .fetch_all(connection)
        .await?;
        rows.into_iter().map(Child::try_from).collect()
    }
}
