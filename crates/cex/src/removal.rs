//! Endpoints (9/ELCE) and tenants (21/TLE) that go take their commands with them.
//!
//! The end of an endpoint is told several times by its register. That of a tenant is told once: it is noted before it is
//! done, so that whoever is killed in between goes on with it.

use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use ids::{EndpointId, TenantId};
use ism::{Record as _, elce, tle};
use runtime::{Context, Subjects, Subscription};
use sqlx::PgPool;
use tokio::sync::Notify;

use crate::batches::Batches;
use crate::invocation::Invoker;
use crate::ledger::Ledger;
use crate::topics::Registers;

/// How often tenants to remove are looked for, beside being told.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Between two parts others may use the database.
const PART_PAUSE: Duration = Duration::from_millis(50);
/// Rows of one table that are removed with one statement.
const ROWS_MAX: i64 = 1_000;
/// Pauses between two attempts while the database is away.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What is heard here.
pub(crate) fn subjects(own: Subjects) -> Subjects {
    own.hears(elce::UNREGISTERED).hears(tle::UNREGISTERED)
}

/// Starts to follow both.
pub(crate) async fn start(
    context: &Context,
    pool: PgPool,
    ledger: Ledger,
    invoker: Invoker,
    batches: Batches,
) -> anyhow::Result<()> {
    // Every replica remembers to which application endpoints belong.
    let endpoints = context.subscribe(elce::UNREGISTERED.of_any(), None).await?;
    let tenants = context.subscribe(tle::UNREGISTERED.of_any(), Some(context.instance().as_str())).await?;
    let (registers, wake) = (Registers::new(pool.clone()), Arc::default());
    let follower = Follower { context: context.clone(), pool, registers, ledger, invoker, batches, wake };
    context.spawn("forget deleted endpoints", follower.clone().endpoints(endpoints));
    context.spawn("follow unregistered tenants", follower.clone().tenants(tenants));
    context.spawn("remove commands of unregistered tenants", follower.remove());
    Ok(())
}

#[derive(Clone)]
struct Follower {
    context: Context,
    pool: PgPool,
    registers: Registers,
    ledger: Ledger,
    invoker: Invoker,
    batches: Batches,
    /// There is a tenant to remove.
    wake: Arc<Notify>,
}

impl Follower {
    async fn endpoints(self, mut events: Subscription) -> anyhow::Result<()> {
        while let Some(message) = events.next().await {
            let event = elce::UnregisteredEvent::decode(&message.payload);
            let event =
                event.inspect_err(|error| tracing::warn!(%error, "the end of an endpoint cannot be read"));
            let gone = event.ok().and_then(|event| {
                let until = DateTime::from_timestamp_millis(event.timestamp)?;
                Some((EndpointId::parse(&event.endpoint_id).ok()?, until))
            });
            let Some((endpoint, until)) = gone else { continue };
            self.invoker.forget(&endpoint);
            // First, so that what they invoke meanwhile is cancelled with the rest.
            self.insist(|| self.batches.forget_endpoint(&endpoint)).await;
            self.insist(|| self.ledger.forget(&endpoint, until)).await;
            self.insist(|| self.registers.forget_endpoint(&endpoint, until)).await;
        }
        Ok(())
    }

    async fn tenants(self, mut events: Subscription) -> anyhow::Result<()> {
        while let Some(message) = events.next().await {
            let event = tle::UnregisteredEvent::decode(&message.payload);
            let event =
                event.inspect_err(|error| tracing::warn!(%error, "the end of a tenant cannot be read"));
            let Some(tenant) = event.ok().and_then(|event| TenantId::parse(&event.tenant_id).ok()) else {
                continue;
            };
            self.insist(|| self.note(&tenant)).await;
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Tries until it is done or the service stops.
    async fn insist<F: Future<Output = sqlx::Result<()>>>(&self, attempt: impl Fn() -> F) {
        let stopping = self.context.stopping();
        let mut pause = RETRY;
        while let Err(error) = attempt().await {
            tracing::warn!(%error, "commands of what was deleted are not removed yet; it is tried again");
            if stopping.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    async fn note(&self, tenant: &TenantId) -> sqlx::Result<()> {
        let note =
            sqlx::query("INSERT INTO tenants_to_remove (tenant_id) VALUES ($1) ON CONFLICT DO NOTHING");
        note.bind(tenant.as_str()).execute(&self.pool).await.map(drop)
    }

    async fn remove(self) -> anyhow::Result<()> {
        let stopping = self.context.stopping();
        while !stopping.is_cancelled() {
            let pause = match self.remove_part().await {
                Ok(true) => PART_PAUSE,
                Ok(false) => LOOK_EVERY,
                Err(error) => {
                    tracing::warn!(%error, "commands of an unregistered tenant are removed later");
                    LOOK_EVERY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.wake.notified() => {}
                () = stopping.cancelled() => {}
            }
        }
        Ok(())
    }

    /// Removes a part of what a tenant has; whether there may be more.
    async fn remove_part(&self) -> sqlx::Result<bool> {
        let next = sqlx::query_scalar("SELECT tenant_id FROM tenants_to_remove ORDER BY noted_at LIMIT 1");
        let Some(tenant) = next.fetch_optional(&self.pool).await? else { return Ok(false) };
        let tenant: String = tenant;
        if remove_rows(&self.pool, &tenant).await? == 0 {
            let done = sqlx::query("DELETE FROM tenants_to_remove WHERE tenant_id = $1");
            done.bind(&tenant).execute(&self.pool).await?;
            tracing::info!(tenant, "the commands of an unregistered tenant were removed");
        }
        Ok(true)
    }
}

/// Removes some rows of each table; how many. What refers to them goes with them.
async fn remove_rows(pool: &PgPool, tenant: &str) -> sqlx::Result<u64> {
    let statements = [
        // Lanes first: nothing is claimed or invoked any more, and rows of commands are locked in the ledger's order.
        "DELETE FROM lanes WHERE ctid = ANY (ARRAY(SELECT ctid FROM lanes WHERE tenant_id = $1 LIMIT $2))",
        "DELETE FROM commands WHERE ctid = ANY (ARRAY(SELECT ctid FROM commands WHERE tenant_id = $1 LIMIT $2))",
        "DELETE FROM batches WHERE ctid = ANY (ARRAY(SELECT ctid FROM batches WHERE tenant_id = $1 LIMIT $2))",
        "DELETE FROM connectivity WHERE ctid = ANY (ARRAY(SELECT ctid FROM connectivity WHERE tenant_id = $1 LIMIT $2))",
        "DELETE FROM feed_floors WHERE ctid = ANY (ARRAY(SELECT ctid FROM feed_floors WHERE tenant_id = $1 LIMIT $2))",
        "DELETE FROM idempotency_keys WHERE ctid = ANY (ARRAY(SELECT ctid FROM idempotency_keys WHERE tenant_id = $1 LIMIT $2))",
        "DELETE FROM things WHERE ctid = ANY (ARRAY(SELECT ctid FROM things WHERE tenant_id = $1 LIMIT $2))",
        "DELETE FROM thing_credentials WHERE ctid = ANY (ARRAY(SELECT ctid FROM thing_credentials WHERE tenant_id = $1 LIMIT $2))",
        "DELETE FROM commanders WHERE ctid = ANY (ARRAY(SELECT ctid FROM commanders WHERE tenant_id = $1 LIMIT $2))",
        "DELETE FROM groups WHERE ctid = ANY (ARRAY(SELECT ctid FROM groups WHERE tenant_id = $1 LIMIT $2))",
        "DELETE FROM publications WHERE ctid = ANY (ARRAY(SELECT ctid FROM publications WHERE tenant_id = $1 LIMIT $2))",
        "DELETE FROM responses WHERE ctid = ANY (ARRAY(SELECT ctid FROM responses WHERE tenant_id = $1 LIMIT $2))",
    ];
    let mut rows = 0;
    for statement in statements {
        let removed = sqlx::query(statement).bind(tenant).bind(ROWS_MAX).execute(pool).await?;
        rows += removed.rows_affected();
    }
    Ok(rows)
}
