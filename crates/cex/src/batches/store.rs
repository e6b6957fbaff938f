//! The statements that make and end batches.

use std::time::Duration;

use ids::{ApplicationName, EndpointId, TenantId};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::{NewBatch, Targets};
use crate::domain::{BatchKey, Idempotency, Payload, Ttl};
use crate::error::Error;

/// Whether a batch goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BatchState {
    /// Commands are invoked, or have not ended yet.
    Running,
    /// All commands were invoked and have ended, well or badly.
    Completed,
    /// Too many commands failed.
    Aborted,
    /// Its caller cancelled it.
    Cancelled,
}

impl BatchState {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Completed => "COMPLETED",
            Self::Aborted => "ABORTED",
            Self::Cancelled => "CANCELLED",
        }
    }

    pub(super) fn parse(text: &str) -> sqlx::Result<Self> {
        let states = [Self::Running, Self::Completed, Self::Aborted, Self::Cancelled];
        let found = states.into_iter().find(|state| state.as_str() == text);
        found.ok_or_else(|| sqlx::Error::Decode(format!("{text} is no state of a batch").into()))
    }
}

/// What is written of a new batch.
pub(super) struct NewRow<'a> {
    tenant: &'a TenantId,
    application: &'a ApplicationName,
    command_type: &'a str,
    filter_id: Option<&'a str>,
    payload: Option<&'a Payload>,
    ttl_ms: Option<i64>,
    rate_per_second: Option<i32>,
    abort_failed_percent: Option<i32>,
    response_topic: Option<&'a str>,
    idempotency: Option<&'a Idempotency>,
}

impl<'a> NewRow<'a> {
    pub(super) fn new(new: &'a NewBatch, application: &'a ApplicationName) -> Result<Self, Error> {
        let too_large = |_| Error::Refused("a number of the batch is too large".to_owned());
        let ttl_ms = match new.ttl {
            Ttl::Once => None,
            Ttl::For(ttl) => Some(i64::try_from(ttl.as_millis()).map_err(too_large)?),
        };
        Ok(Self {
            tenant: &new.tenant,
            application,
            command_type: new.command_type.as_str(),
            filter_id: match &new.targets {
                Targets::Filter(filter_id) => Some(filter_id),
                Targets::Endpoints(_) => None,
            },
            payload: new.payload.as_ref(),
            ttl_ms,
            rate_per_second: new.rate_per_second.map(i32::try_from).transpose().map_err(too_large)?,
            abort_failed_percent: new.abort_failed_percent.map(i32::from),
            response_topic: new.response_topic.as_deref(),
            idempotency: new.idempotency.as_ref(),
        })
    }
}

/// What became of a new batch.
#[derive(Debug)]
pub(super) enum Entered {
    New(Uuid),
    Repeated((Uuid, ApplicationName)),
    /// The tenant has so many that have not ended.
    TooMany(i64),
}

/// All statements about batches. Cheap to clone.
#[derive(Clone)]
pub(super) struct Store {
    pub(super) pool: PgPool,
}

impl Store {
    pub(super) fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// The batch that was made under an idempotency key.
    pub(super) async fn find(
        &self,
        tenant: &TenantId,
        idempotency: &Idempotency,
    ) -> Result<Option<(Uuid, ApplicationName)>, Error> {
        let found: Option<(Vec<u8>, Option<Uuid>, Option<String>)> = sqlx::query_as(
            "SELECT known.digest, batch.task_id, batch.application_name
             FROM idempotency_keys AS known LEFT JOIN batches AS batch USING (batch_key)
             WHERE known.tenant_id = $1 AND known.idempotency_key = $2",
        )
        .bind(tenant.as_str())
        .bind(&idempotency.key)
        .fetch_optional(&self.pool)
        .await?;
        let Some((digest, task_id, application)) = found else { return Ok(None) };
        match task_id.zip(application) {
            Some((task_id, application)) if digest == idempotency.digest => {
                Ok(Some((task_id, name(&application)?)))
            }
            _ => Err(Error::KeyReused),
        }
    }

    /// Writes a batch with its targets, in one transaction.
    pub(super) async fn enter(
        &self,
        row: &NewRow<'_>,
        endpoints: &[EndpointId],
        open_max: i64,
    ) -> Result<Entered, Error> {
        let mut transaction = self.pool.begin().await?;
        let open: i64 =
            sqlx::query_scalar("SELECT count(*) FROM batches WHERE tenant_id = $1 AND ended_at IS NULL")
                .bind(row.tenant.as_str())
                .fetch_one(&mut *transaction)
                .await?;
        if open >= open_max {
            return Ok(Entered::TooMany(open));
        }
        let task_id = Uuid::new_v4();
        let batch = insert(&mut transaction, row, task_id, endpoints.len()).await?;
        if let Some(idempotency) = row.idempotency
            && !insert_key(&mut transaction, row.tenant, idempotency, batch).await?
        {
            transaction.rollback().await?;
            // Whoever was first has committed by now.
            let found = self.find(row.tenant, idempotency).await?;
            return found.map(Entered::Repeated).ok_or(Error::KeyReused);
        }
        let ids: Vec<&str> = endpoints.iter().map(EndpointId::as_str).collect();
        sqlx::query(
            "INSERT INTO batch_targets (batch_key, ordinal, endpoint_id)
             SELECT $1, ordinal::integer, endpoint_id
             FROM unnest($2::text[]) WITH ORDINALITY AS target (endpoint_id, ordinal)",
        )
        .bind(batch.0)
        .bind(ids)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(Entered::New(task_id))
    }

    /// Ends a running batch: no more of its commands are invoked once this has returned. It is completed if all of it had
    /// ended already, else cancelled. None when it is not running.
    pub(super) async fn cancel(
        &self,
        tenant: &TenantId,
        application: &ApplicationName,
        task_id: Uuid,
        reason: &str,
    ) -> sqlx::Result<Option<(BatchKey, BatchState)>> {
        let mut transaction = self.pool.begin().await?;
        // This waits for a part of the batch that is being invoked.
        let batch: Option<i64> = sqlx::query_scalar(
            "SELECT batch_key FROM batches
             WHERE task_id = $1 AND tenant_id = $2 AND application_name = $3 AND state = 'RUNNING'
             FOR NO KEY UPDATE",
        )
        .bind(task_id)
        .bind(tenant.as_str())
        .bind(application.as_str())
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(batch) = batch.map(BatchKey) else { return Ok(None) };
        let state = if close(&mut transaction, batch).await? {
            BatchState::Completed
        } else {
            stop(&mut transaction, batch, BatchState::Cancelled, reason).await?;
            BatchState::Cancelled
        };
        transaction.commit().await?;
        Ok(Some((batch, state)))
    }

    /// The endpoint is no more: what was not invoked on it never will be. Once this has returned, nothing is any more.
    pub(super) async fn forget_endpoint(&self, endpoint: &EndpointId, reason: &str) -> sqlx::Result<()> {
        // This waits for parts of the batches that are being invoked.
        sqlx::query(
            "WITH waiting AS (
                 SELECT batch_key AS of_batch FROM batches
                 WHERE batch_key IN (SELECT batch_key FROM batch_targets WHERE endpoint_id = $1 AND reason IS NULL)
                 ORDER BY batch_key FOR NO KEY UPDATE)
             UPDATE batch_targets SET reason = $2 FROM waiting
             WHERE batch_key = of_batch AND endpoint_id = $1 AND reason IS NULL",
        )
        .bind(endpoint.as_str())
        .bind(reason)
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

pub(super) fn name(application: &str) -> sqlx::Result<ApplicationName> {
    ApplicationName::parse(application).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

async fn insert(
    connection: &mut PgConnection,
    row: &NewRow<'_>,
    task_id: Uuid,
    total: usize,
) -> Result<BatchKey, Error> {
    let total =
        i32::try_from(total).map_err(|_| Error::Refused("the batch has too many endpoints".to_owned()))?;
    let batch = sqlx::query_scalar(
        "INSERT INTO batches (task_id, tenant_id, application_name, command_type, filter_id, payload, payload_is_text,
             ttl_ms, rate_per_second, abort_failed_percent, total, response_topic)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) RETURNING batch_key",
    )
    .bind(task_id)
    .bind(row.tenant.as_str())
    .bind(row.application.as_str())
    .bind(row.command_type)
    .bind(row.filter_id)
    .bind(row.payload.map(|payload| &payload.bytes()[..]))
    .bind(row.payload.is_some_and(Payload::is_text))
    .bind(row.ttl_ms)
    .bind(row.rate_per_second)
    .bind(row.abort_failed_percent)
    .bind(total)
    .bind(row.response_topic)
    .fetch_one(connection)
    .await?;
    Ok(BatchKey(batch))
}

/// False when the key is known.
async fn insert_key(
    connection: &mut PgConnection,
    tenant: &TenantId,
    idempotency: &Idempotency,
    batch: BatchKey,
) -> sqlx::Result<bool> {
    let inserted = sqlx::query(
        "INSERT INTO idempotency_keys (tenant_id, idempotency_key, digest, batch_key) VALUES ($1, $2, $3, $4)
         ON CONFLICT DO NOTHING",
    )
    .bind(tenant.as_str())
    .bind(&idempotency.key)
    .bind(&idempotency.digest[..])
    .bind(batch.0)
    .execute(connection)
    .await?;
    Ok(inserted.rows_affected() > 0)
}

/// Ends a running batch whose row is locked; what was not invoked never will be.
pub(super) async fn stop(
    connection: &mut PgConnection,
    batch: BatchKey,
    state: BatchState,
    reason: &str,
) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE batches SET state = $2, reason = $3, updated_at = now(), due_at = now() WHERE batch_key = $1",
    )
    .bind(batch.0)
    .bind(state.as_str())
    .bind(reason)
    .execute(&mut *connection)
    .await?;
    sqlx::query("UPDATE batch_targets SET reason = $2 WHERE batch_key = $1 AND reason IS NULL")
        .bind(batch.0)
        .bind(reason)
        .execute(connection)
        .await?;
    Ok(())
}

/// When a batch is looked at again.
pub(super) async fn postpone(
    connection: &mut PgConnection,
    batch: BatchKey,
    pause: Duration,
) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE batches SET due_at = clock_timestamp() + make_interval(secs => $2) WHERE batch_key = $1",
    )
    .bind(batch.0)
    .bind(pause.as_secs_f64())
    .execute(connection)
    .await?;
    Ok(())
}

/// Ends a batch of which nothing is left to be done, at the moment when the last of its commands had ended, and keeps its counts;
/// false when something is.
pub(super) async fn close(connection: &mut PgConnection, batch: BatchKey) -> sqlx::Result<bool> {
    let closed = sqlx::query(
        "WITH child AS (
             SELECT count(*) FILTER (WHERE state = 'EXECUTED') AS executed, max(updated_at) AS last
             FROM commands WHERE batch_key = $1)
         UPDATE batches SET ended_at = greatest(child.last, updated_at), updated_at = now(), executed_count = child.executed,
             expired_count = total - child.executed,
             state = CASE state WHEN 'RUNNING' THEN 'COMPLETED' ELSE state END
         FROM child
         WHERE batch_key = $1
             AND NOT EXISTS (SELECT FROM batch_targets WHERE batch_key = $1 AND reason IS NULL)
             AND NOT EXISTS (
                 SELECT FROM commands WHERE batch_key = $1 AND state IN ('CREATED', 'SENT', 'DELIVERED'))",
    )
    .bind(batch.0)
    .execute(connection)
    .await?;
    Ok(closed.rows_affected() > 0)
}
