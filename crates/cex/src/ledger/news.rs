//! What has happened, told after its commit: to those who wait here, and to other replicas. It is news, not truth; some may
//! be lost.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ids::{ApplicationName, CommandType, EndpointId, ReplicaId, TenantId};
use ism::Record as _;
use ism::commands::{CHANGED, CommandTransition, CommandsChangedEvent};
use opentelemetry::metrics::{Counter, Histogram};
use opentelemetry::{KeyValue, global};
use runtime::{Context, Subscription};
use tokio::sync::mpsc;
use uuid::Uuid;

use chrono::DateTime;

use super::Ledger;
use crate::changes::Changes;
use crate::domain::{CommandName, Happening, Lane, State, Transition};

/// Commits whose news wait to be published.
const QUEUE_MAX: usize = 1_024;
/// Transitions in one event.
const EVENT_MAX: usize = 1_000;
/// Rows that are ended or purged with one statement.
const PART_MAX: u32 = 1_000;
/// How often is looked for what was kept long enough.
const PURGE_EVERY: Duration = Duration::from_secs(60);
/// The longest pause while the database is away.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Who is told, and how.
pub(super) struct News {
    changes: Arc<Changes>,
    publisher: OnceLock<mpsc::Sender<Vec<Happening>>>,
    transitions: Counter<u64>,
    commit_rows: Histogram<u64>,
    failures: Counter<u64>,
    unpublished: Counter<u64>,
}

impl News {
    pub(super) fn new(changes: Arc<Changes>) -> Self {
        let meter = global::meter("cex");
        Self {
            changes,
            publisher: OnceLock::new(),
            transitions: meter
                .u64_counter("bandar_cex_transitions")
                .with_description("States that commands reached, by state")
                .build(),
            commit_rows: meter
                .u64_histogram("bandar_cex_commit_rows")
                .with_description("Commands and results that one commit took together")
                .with_boundaries(vec![1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3])
                .build(),
            failures: meter
                .u64_counter("bandar_cex_commit_failures")
                .with_description("Commits of the ledger that failed")
                .build(),
            unpublished: meter
                .u64_counter("bandar_cex_unpublished_commits")
                .with_description(
                    "Commits that other replicas were not told of, because NATS did not take them in time",
                )
                .build(),
        }
    }

    pub(super) fn committed(&self, rows: usize) {
        self.commit_rows.record(u64::try_from(rows).unwrap_or(u64::MAX), &[]);
    }

    pub(super) fn failed_commit(&self) {
        self.failures.add(1, &[]);
    }

    /// Tells what was committed.
    pub(super) fn tell(&self, happenings: Vec<Happening>) {
        if happenings.is_empty() {
            return;
        }
        self.changes.tell(&happenings);
        for state in State::ALL {
            let count = happenings.iter().filter(|happening| happening.transition.state == state).count();
            if count > 0 {
                let count = u64::try_from(count).unwrap_or(u64::MAX);
                self.transitions.add(count, &[KeyValue::new("state", state.as_str())]);
            }
        }
        if let Some(publisher) = self.publisher.get()
            && publisher.try_send(happenings).is_err()
        {
            self.unpublished.add(1, &[]);
        }
    }

    pub(super) fn tell_feed(&self, tenant: &TenantId, application: &ApplicationName) {
        self.changes.tell_feed(tenant, application);
    }
}

impl Ledger {
    /// Begins to end and purge commands, and to exchange news with other replicas.
    ///
    /// # Errors
    /// When NATS does not take the subscription.
    pub(crate) async fn start(&self, context: &Context) -> anyhow::Result<()> {
        let events = context.subscribe(CHANGED.of_any(), None).await?;
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        if self.shared.news.publisher.set(sender).is_err() {
            anyhow::bail!("the ledger was started twice");
        }
        let (writers, stopping) = (self.writers.clone(), context.stopping());
        context.spawn("write commands", async move {
            match stopping.run_until_cancelled(writers.ended()).await {
                None => Ok(()),
                Some(()) => anyhow::bail!("a writer of the ledger has ended"),
            }
        });
        context.spawn("tell of commands", publish(context.clone(), queue));
        context.spawn("hear of commands", hear(self.shared.clone(), context.replica().clone(), events));
        let (ledger, stopping, every) = (self.clone(), context.stopping(), self.shared.config.look_every());
        context.spawn("end commands", async move {
            let part = || async { ledger.end(PART_MAX).await.map(|ended| ended >= u64::from(PART_MAX)) };
            repeat("commands could not be ended", every, part, stopping).await;
            Ok(())
        });
        let (ledger, stopping) = (self.clone(), context.stopping());
        context.spawn("purge commands", async move {
            let part = || async { ledger.purge(PART_MAX).await.map(|purged| purged > 0) };
            repeat("commands could not be purged", PURGE_EVERY, part, stopping).await;
            Ok(())
        });
        Ok(())
    }
}

/// Repeats something: at once while it says that there is more, else after a pause, longer while it fails.
async fn repeat<F: Future<Output = sqlx::Result<bool>>>(
    failure: &'static str,
    every: Duration,
    part: impl Fn() -> F,
    stopping: tokio_util::sync::CancellationToken,
) {
    let mut pause = every;
    while !stopping.is_cancelled() {
        match part().await {
            Ok(true) => continue,
            Ok(false) => pause = every,
            Err(error) => {
                tracing::warn!(%error, "{failure}; trying again");
                pause = (pause * 2).min(PAUSE_MAX.max(every));
            }
        }
        if stopping.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}

async fn publish(context: Context, mut queue: mpsc::Receiver<Vec<Happening>>) -> anyhow::Result<()> {
    let subject = CHANGED.of(context.instance());
    let stopping = context.stopping();
    loop {
        let happenings = tokio::select! {
            happenings = queue.recv() => happenings,
            () = stopping.cancelled() => match queue.try_recv() {
                Ok(happenings) => Some(happenings),
                Err(_) => return Ok(()),
            },
        };
        let Some(happenings) = happenings else { return Ok(()) };
        for part in happenings.chunks(EVENT_MAX) {
            let event = CommandsChangedEvent {
                correlation_id: Uuid::new_v4().to_string(),
                timestamp: runtime::now_ms(),
                timeout: 0,
                transitions: part.iter().map(to_record).collect(),
                originator_replica_id: context.replica().to_string(),
            };
            if let Err(error) = context.nats().publish(subject.clone(), event.encode()).await {
                tracing::warn!(%error, "other replicas could not be told of commands; they look for themselves");
            }
        }
    }
}

fn to_record(happening: &Happening) -> CommandTransition {
    let Happening { name, application, transition } = happening;
    CommandTransition {
        tenant_id: name.lane.tenant.to_string(),
        application_name: application.to_string(),
        endpoint_id: name.lane.endpoint_id.to_string(),
        command_type: name.lane.command_type.to_string(),
        command_id: name.command_id,
        state: transition.state.as_str().to_owned(),
        reason: transition.reason.clone(),
        at: transition.at.timestamp_millis(),
    }
}

fn of_record(record: &CommandTransition) -> Option<Happening> {
    let lane = Lane {
        tenant: TenantId::parse(&record.tenant_id).ok()?,
        endpoint_id: EndpointId::parse(&record.endpoint_id).ok()?,
        command_type: CommandType::parse(&record.command_type).ok()?,
    };
    let transition = Transition {
        state: State::parse(&record.state)?,
        reason: record.reason.clone(),
        at: DateTime::from_timestamp_millis(record.at)?,
    };
    let application = ApplicationName::parse(&record.application_name).ok()?;
    Some(Happening { name: CommandName { lane, command_id: record.command_id }, application, transition })
}

/// Tells those who wait here what other replicas have committed.
async fn hear(shared: Arc<super::Shared>, own: ReplicaId, mut events: Subscription) -> anyhow::Result<()> {
    while let Some(message) = events.next().await {
        match CommandsChangedEvent::decode(&message.payload) {
            Ok(event) if event.originator_replica_id == own.as_str() => {}
            Ok(event) => {
                let happenings: Vec<Happening> = event.transitions.iter().filter_map(of_record).collect();
                shared.news.changes.tell(&happenings);
            }
            Err(error) => tracing::warn!(%error, "what another replica tells of commands cannot be read"),
        }
    }
    Ok(())
}
