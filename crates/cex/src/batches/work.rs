//! Working off batches, part by part.
//!
//! Whoever works on a batch holds the lock of its row for as long, in a transaction that also takes the targets away whose commands
//! it has invoked. Invoking commits by itself, before that: if the process is killed in between, the next one invokes the
//! same targets again under the same idempotency keys, and finds the commands there. Whoever cancels the batch changes that row
//! too, so that he waits for the part that is under way, and no part follows.

use std::sync::Arc;
use std::time::Duration;

use futures::Future;
use ids::{ApplicationName, CommandType, EndpointId, TenantId};
use sqlx::{FromRow, PgConnection};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;
use super::store::{BatchState, Store, close, name, postpone, stop};
use super::{CANCELLED_AT_ONCE, CANCELLED_STATES};
use crate::config::Config;
use crate::domain::{BatchKey, Idempotency, Lane, NewCommand, Payload, Ttl};
use crate::error::Error;
use crate::invocation::Invoker;
use crate::ledger::{Invoked, Ledger};

/// Parts that are invoked in a second when the rate is limited, unless the rate is less.
const PARTS_PER_SECOND: u32 = 4;
/// The longest pause between two looks at a batch whose commands were all invoked; it grows with the age of the batch.
const LOOK_PAUSE_MAX: Duration = Duration::from_secs(30);
/// So much of its age passes until a batch is looked at again.
const LOOK_PAUSE_OF_AGE: f64 = 0.05;
/// How long a batch rests with which something went wrong.
const REST: Duration = Duration::from_secs(2);

/// Works off batches.
pub(super) struct Work {
    store: Store,
    ledger: Ledger,
    config: Arc<Config>,
    metrics: Arc<Metrics>,
}

/// A batch that is worked on.
struct Batch {
    key: BatchKey,
    tenant: TenantId,
    application: ApplicationName,
    command_type: CommandType,
    payload: Option<Payload>,
    ttl: Ttl,
    rate_per_second: Option<u32>,
    abort_failed_percent: Option<i64>,
    state: BatchState,
    reason: Option<String>,
    response_topic: Option<String>,
    age: Duration,
}

#[derive(FromRow)]
struct BatchRow {
    batch_key: i64,
    tenant_id: String,
    application_name: String,
    command_type: String,
    payload: Option<Vec<u8>>,
    payload_is_text: bool,
    ttl_ms: Option<i64>,
    rate_per_second: Option<i32>,
    abort_failed_percent: Option<i32>,
    state: String,
    reason: Option<String>,
    response_topic: Option<String>,
    age_s: f64,
}

#[derive(FromRow)]
struct Target {
    ordinal: i32,
    endpoint_id: String,
}

impl TryFrom<BatchRow> for Batch {
    type Error = sqlx::Error;

    fn try_from(row: BatchRow) -> sqlx::Result<Self> {
        let number = |number: i64| u64::try_from(number).map_err(|error| sqlx::Error::Decode(error.into()));
        Ok(Self {
            key: BatchKey(row.batch_key),
            tenant: TenantId::parse(&row.tenant_id).map_err(|error| sqlx::Error::Decode(error.into()))?,
            application: name(&row.application_name)?,
            command_type: CommandType::parse(&row.command_type)
                .map_err(|error| sqlx::Error::Decode(error.into()))?,
            payload: row.payload.map(|bytes| Payload::stored(bytes, row.payload_is_text)),
            ttl: match row.ttl_ms {
                None => Ttl::Once,
                Some(ttl_ms) => Ttl::For(Duration::from_millis(number(ttl_ms)?)),
            },
            rate_per_second: row.rate_per_second.and_then(|rate| u32::try_from(rate).ok()),
            abort_failed_percent: row.abort_failed_percent.map(i64::from),
            state: BatchState::parse(&row.state)?,
            reason: row.reason,
            response_topic: row.response_topic,
            age: Duration::try_from_secs_f64(row.age_s).unwrap_or_default(),
        })
    }
}

impl Work {
    pub(super) fn new(store: Store, ledger: Ledger, config: Arc<Config>, metrics: Arc<Metrics>) -> Self {
        Self { store, ledger, config, metrics }
    }

    /// Works until it is told to stop.
    pub(super) async fn run(&self, invoker: &Invoker, wake: &Notify, stopping: &CancellationToken) {
        while !stopping.is_cancelled() {
            let worked = match self.step(|commands| invoker.invoke(commands)).await {
                Ok(worked) => worked,
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "batches rest; it is tried again"
                    );
                    false
                }
            };
            if !worked {
                tokio::select! {
                    () = tokio::time::sleep(self.config.look_every()) => {}
                    () = wake.notified() => {}
                    () = stopping.cancelled() => {}
                }
            }
        }
    }

    /// Works on the batch that has waited longest, if any is due; false when none is.
    async fn step<F, I>(&self, invoke: I) -> Result<bool, Error>
    where
        F: Future<Output = Result<Vec<Invoked>, Error>> + Send,
        I: Fn(Vec<NewCommand>) -> F + Send + Sync,
    {
        let mut transaction = self.store.pool.begin().await?;
        let row: Option<BatchRow> = sqlx::query_as(
            "SELECT batch_key, tenant_id, application_name, command_type, payload, payload_is_text, ttl_ms,
                 rate_per_second, abort_failed_percent, state, reason, response_topic,
                 extract(epoch FROM clock_timestamp() - created_at)::double precision AS age_s
             FROM batches WHERE ended_at IS NULL AND due_at <= now()
             ORDER BY due_at LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED",
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(row) = row else { return Ok(false) };
        let key = BatchKey(row.batch_key);
        let worked = async {
            let batch = Batch::try_from(row)?;
            let left = self.work_on(&mut transaction, &batch, invoke).await?;
            Ok((transaction, left))
        };
        match worked.await {
            Ok((transaction, left)) => {
                transaction.commit().await?;
                if let Some(state) = left {
                    self.metrics.ended(state);
                }
                Ok(true)
            }
            Err(error) => {
                // Not to be the first in the line again: others may be well.
                let mut connection = self.store.pool.acquire().await?;
                postpone(&mut connection, key, REST).await?;
                Err(error)
            }
        }
    }

    /// Does the next part of a batch; tells the state for which it has left RUNNING, if it has now.
    async fn work_on<F, I>(
        &self,
        connection: &mut PgConnection,
        batch: &Batch,
        invoke: I,
    ) -> Result<Option<BatchState>, Error>
    where
        F: Future<Output = Result<Vec<Invoked>, Error>> + Send,
        I: Fn(Vec<NewCommand>) -> F + Send + Sync,
    {
        if batch.state != BatchState::Running {
            let reason = batch.reason.as_deref().unwrap_or("the batch has ended");
            self.wind_up(connection, batch, reason).await?;
            return Ok(None);
        }
        let targets = targets(connection, batch.key, self.part_max(batch)).await?;
        if targets.is_empty() && close(connection, batch.key).await? {
            return Ok(Some(BatchState::Completed));
        }
        if let Some(reason) = self.abort_reason(connection, batch).await? {
            stop(connection, batch.key, BatchState::Aborted, &reason).await?;
            self.wind_up(connection, batch, &reason).await?;
            return Ok(Some(BatchState::Aborted));
        }
        if targets.is_empty() {
            postpone(connection, batch.key, self.look_pause(batch)).await?;
        } else {
            self.invoke_part(connection, batch, &targets, invoke).await?;
        }
        Ok(None)
    }

    /// How many commands may be invoked at once.
    fn part_max(&self, batch: &Batch) -> u32 {
        let part_max = self.config.batch_part_max.max(1);
        batch.rate_per_second.map_or(part_max, |rate| (rate / PARTS_PER_SECOND).clamp(1, part_max))
    }

    fn look_pause(&self, batch: &Batch) -> Duration {
        let pause = batch.age.mul_f64(LOOK_PAUSE_OF_AGE).min(LOOK_PAUSE_MAX);
        pause.max(self.config.look_every())
    }

    async fn invoke_part<F, I>(
        &self,
        connection: &mut PgConnection,
        batch: &Batch,
        targets: &[Target],
        invoke: I,
    ) -> Result<(), Error>
    where
        F: Future<Output = Result<Vec<Invoked>, Error>> + Send,
        I: Fn(Vec<NewCommand>) -> F + Send + Sync,
    {
        let commands =
            targets.iter().map(|target| command(batch, target)).collect::<sqlx::Result<Vec<_>>>()?;
        let (mut invoked, mut refused, mut reasons) = (Vec::new(), Vec::new(), Vec::new());
        for (target, became) in targets.iter().zip(invoke(commands).await?) {
            match became {
                Invoked::New { .. } | Invoked::Repeated { .. } => invoked.push(target.ordinal),
                Invoked::TooMany(outstanding) => {
                    refused.push(target.ordinal);
                    reasons.push(format!(
                        "the endpoint has {outstanding} outstanding commands, and may have no more \
                         (cex.outstanding_per_endpoint_max)"
                    ));
                }
                Invoked::KeyReused => {
                    refused.push(target.ordinal);
                    reasons.push("the command's idempotency key belongs to another request".to_owned());
                }
            }
        }
        sqlx::query("DELETE FROM batch_targets WHERE batch_key = $1 AND ordinal = ANY($2)")
            .bind(batch.key.0)
            .bind(&invoked)
            .execute(&mut *connection)
            .await?;
        if !refused.is_empty() {
            refuse(connection, batch.key, &refused, &reasons).await?;
        }
        pace(connection, batch, targets.len()).await?;
        self.metrics.worked(invoked.len(), refused.len());
        Ok(())
    }

    /// Why the batch is to be aborted, if it is.
    async fn abort_reason(
        &self,
        connection: &mut PgConnection,
        batch: &Batch,
    ) -> sqlx::Result<Option<String>> {
        let Some(max) = batch.abort_failed_percent else { return Ok(None) };
        let (ended, failed): (i64, i64) = sqlx::query_as(
            "SELECT child.ended + target.refused, child.failed + target.refused FROM
                 (SELECT count(*) AS ended,
                      count(*) FILTER (WHERE state IN ('UNDELIVERED', 'EXPIRED') OR status_code >= 400) AS failed
                  FROM commands
                  WHERE batch_key = $1 AND state IN ('EXECUTED', 'UNDELIVERED', 'EXPIRED', 'CANCELLED')) AS child,
                 (SELECT count(*) AS refused FROM batch_targets WHERE batch_key = $1 AND reason IS NOT NULL) AS target",
        )
        .bind(batch.key.0)
        .fetch_one(connection)
        .await?;
        let enough = ended >= i64::from(self.config.batch_abort_ended_min.max(1));
        Ok((enough && failed * 100 > max * ended).then(|| {
            let percent = failed * 100 / ended;
            format!(
                "{failed} of the {ended} commands that ended have failed: {percent} %, and abortFailedPercent is {max}"
            )
        }))
    }

    /// Goes on to end what is left of a batch that was ended before its time.
    async fn wind_up(&self, connection: &mut PgConnection, batch: &Batch, reason: &str) -> sqlx::Result<()> {
        // What was invoked just before a kill is a command, whatever its target says.
        sqlx::query(
            "DELETE FROM batch_targets AS target USING commands AS command
             WHERE target.batch_key = $1 AND command.batch_key = $1 AND command.endpoint_id = target.endpoint_id",
        )
        .bind(batch.key.0)
        .execute(&mut *connection)
        .await?;
        let cancelling = self.ledger.cancel_of_batch(batch.key, &CANCELLED_STATES, reason, CANCELLED_AT_ONCE);
        if cancelling.await? >= u64::from(CANCELLED_AT_ONCE) {
            return postpone(connection, batch.key, Duration::ZERO).await;
        }
        if !close(connection, batch.key).await? {
            postpone(connection, batch.key, self.look_pause(batch)).await?;
        }
        Ok(())
    }
}

/// The command for one target.
fn command(batch: &Batch, target: &Target) -> sqlx::Result<NewCommand> {
    let endpoint_id =
        EndpointId::parse(&target.endpoint_id).map_err(|error| sqlx::Error::Decode(error.into()))?;
    let lane = Lane { tenant: batch.tenant.clone(), endpoint_id, command_type: batch.command_type.clone() };
    Ok(NewCommand {
        lane,
        application: batch.application.clone(),
        payload: batch.payload.clone(),
        ttl: batch.ttl,
        // The key alone says which command it is: nobody else makes such keys.
        idempotency: Some(Idempotency {
            key: format!("batch:{}:{}", batch.key.0, target.ordinal),
            digest: [0; 32],
        }),
        batch: Some(batch.key),
        response_topic: batch.response_topic.clone(),
    })
}

/// The targets that are next.
async fn targets(connection: &mut PgConnection, batch: BatchKey, most: u32) -> sqlx::Result<Vec<Target>> {
    sqlx::query_as(
        "SELECT ordinal, endpoint_id FROM batch_targets WHERE batch_key = $1 AND reason IS NULL
         ORDER BY ordinal LIMIT $2",
    )
    .bind(batch.0)
    .bind(i64::from(most))
    .fetch_all(connection)
    .await
}

async fn refuse(
    connection: &mut PgConnection,
    batch: BatchKey,
    ordinals: &[i32],
    reasons: &[String],
) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE batch_targets AS target SET reason = refused.reason
         FROM unnest($2::integer[], $3::text[]) AS refused (ordinal, reason)
         WHERE target.batch_key = $1 AND target.ordinal = refused.ordinal",
    )
    .bind(batch.0)
    .bind(ordinals)
    .bind(reasons)
    .execute(connection)
    .await?;
    Ok(())
}

/// Sets when the next part is due. With a rate that follows from when this part was due, so that the rate is kept on average;
/// but what a pause of the service took is made up for with one second's commands at most.
async fn pace(connection: &mut PgConnection, batch: &Batch, invoked: usize) -> sqlx::Result<()> {
    let Some(rate) = batch.rate_per_second else {
        return postpone(connection, batch.key, Duration::ZERO).await;
    };
    let invoked = u32::try_from(invoked).unwrap_or(u32::MAX);
    sqlx::query(
        "UPDATE batches SET due_at = greatest(due_at, now() - interval '1 second') + make_interval(secs => $2)
         WHERE batch_key = $1",
    )
    .bind(batch.key.0)
    .bind(f64::from(invoked) / f64::from(rate.max(1)))
    .execute(connection)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests;
