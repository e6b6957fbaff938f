//! Group commit: what comes while a transaction runs goes together into the next, so that one flush to disk serves many.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use sqlx::{Connection as _, PgConnection};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::claims;
use super::invoke::{Invocation, Invocations};
use super::journal::Journal;
use super::lanes::Lanes;
use super::results::{self, Reported};
use super::settle::{self, Settlement};
use super::{Claim, Invoked, Shared};
use crate::domain::{Lane, NewResult, ResultTaken};

/// What waits for one writer; then callers wait.
const QUEUE_MAX: usize = 4_096;
/// Commands and results that one transaction takes, unless one caller brings more.
const ROWS_MAX: usize = 1_000;
/// A connection that lay unused for longer than this is tried before it is used.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);
/// How long a transaction may take: a server that cannot be reached any more says nothing. Whether it was committed is not known
/// then. The server ends what it was about by itself.
const WRITE_TIMEOUT: Duration = Duration::from_secs(45);
/// How often a transaction is repeated when others were in its way.
const ATTEMPTS_MAX: usize = 5;

/// What is to be written.
#[derive(Debug)]
enum Work {
    Invoke(Invocation),
    Settle(Settlement),
    Results(Lane, Vec<NewResult>),
}

/// What became of it.
#[derive(Debug)]
enum Done {
    Invoked(Vec<Invoked>),
    Settled(Option<Claim>),
    Taken(Vec<ResultTaken>),
}

type Job = (Work, oneshot::Sender<sqlx::Result<Done>>);

/// The writers' queues. What is about one endpoint goes to one writer, so that they do not wait for each other's locks.
#[derive(Clone)]
pub(super) struct Writers {
    queues: Arc<[mpsc::Sender<Job>]>,
}

impl Writers {
    /// Starts the writers. They end when nobody can give them work any more.
    pub(super) fn start(shared: &Arc<Shared>) -> Self {
        let count = shared.config.ledger_writers.clamp(1, 64);
        let queues = (0..count).map(|_| {
            let (sender, queue) = mpsc::channel(QUEUE_MAX);
            tokio::spawn(run(shared.clone(), sender.downgrade(), queue));
            sender
        });
        Self { queues: queues.collect() }
    }

    /// Waits until a writer has ended, which none does while it can be given work.
    pub(super) async fn ended(&self) {
        futures::future::select_all(self.queues.iter().map(|queue| Box::pin(queue.closed()))).await;
    }

    pub(super) async fn invoke(&self, invocation: Invocation) -> sqlx::Result<Vec<Invoked>> {
        let Some(lane) = invocation.commands.first().map(|command| command.lane.clone()) else {
            return Ok(Vec::new());
        };
        match self.write(&lane, Work::Invoke(invocation)).await? {
            Done::Invoked(invoked) => Ok(invoked),
            _ => Err(sqlx::Error::WorkerCrashed),
        }
    }

    pub(super) async fn settle(&self, settlement: Settlement) -> sqlx::Result<Option<Claim>> {
        let lane = settlement.claim.lane.clone();
        match self.write(&lane, Work::Settle(settlement)).await? {
            Done::Settled(claim) => Ok(claim),
            _ => Err(sqlx::Error::WorkerCrashed),
        }
    }

    pub(super) async fn results(
        &self,
        lane: Lane,
        results: Vec<NewResult>,
    ) -> sqlx::Result<Vec<ResultTaken>> {
        match self.write(&lane.clone(), Work::Results(lane, results)).await? {
            Done::Taken(taken) => Ok(taken),
            _ => Err(sqlx::Error::WorkerCrashed),
        }
    }

    async fn write(&self, lane: &Lane, work: Work) -> sqlx::Result<Done> {
        let mut hasher = DefaultHasher::new();
        lane.endpoint_id.hash(&mut hasher);
        let count = u64::try_from(self.queues.len()).unwrap_or(1).max(1);
        let index = usize::try_from(hasher.finish() % count).unwrap_or_default();
        let queue = self.queues.get(index).ok_or(sqlx::Error::WorkerCrashed)?;
        let (sender, done) = oneshot::channel();
        queue.send((work, sender)).await.map_err(|_| sqlx::Error::WorkerCrashed)?;
        done.await.map_err(|_| sqlx::Error::WorkerCrashed)?
    }
}

impl Work {
    fn rows(&self) -> usize {
        match self {
            Self::Invoke(invocation) => invocation.commands.len(),
            Self::Settle(settlement) => settlement.claim.commands.len(),
            Self::Results(_, results) => results.len(),
        }
    }
}

/// The few statements of a writer are planned once: with arrays as parameters PostgreSQL would otherwise plan them anew each
/// time, which costs more than they do. They look up few rows by an index; a plan that was made while a table was small
/// would read all of it.
const PLANS: &str =
    "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off;
    SET enable_mergejoin = off";
/// How long a plan is used: tables grow.
const PLANNED_FOR: Duration = Duration::from_secs(5);

/// A writer's own connection.
#[derive(Default)]
struct Link(Option<Linked>);

struct Linked {
    connection: PgConnection,
    used: Instant,
    planned: Instant,
}

impl Link {
    async fn connection(&mut self, shared: &Shared) -> sqlx::Result<&mut PgConnection> {
        if let Some(linked) = &mut self.0
            && linked.used.elapsed() > TRUSTED_IDLE
            && linked.connection.ping().await.is_err()
        {
            self.0 = None;
        }
        if self.0.is_none() {
            let mut connection = shared.pool.acquire().await?.detach();
            sqlx::raw_sql(PLANS).execute(&mut connection).await?;
            self.0 = Some(Linked { connection, used: Instant::now(), planned: Instant::now() });
        }
        let linked = self.0.as_mut().ok_or(sqlx::Error::WorkerCrashed)?;
        linked.used = Instant::now();
        if linked.planned.elapsed() > PLANNED_FOR {
            sqlx::raw_sql("DISCARD PLANS").execute(&mut linked.connection).await?;
            linked.planned = Instant::now();
        }
        Ok(&mut linked.connection)
    }
}

async fn run(shared: Arc<Shared>, own: mpsc::WeakSender<Job>, mut queue: mpsc::Receiver<Job>) {
    let mut link = Link::default();
    let mut left: Option<Job> = None;
    loop {
        let first = match left.take() {
            Some(job) => job,
            None => match queue.recv().await {
                Some(job) => job,
                None => return,
            },
        };
        let mut rows = first.0.rows();
        let mut jobs = vec![first];
        while let Ok(job) = queue.try_recv() {
            rows += job.0.rows();
            if rows > ROWS_MAX || is_settled_already(&jobs, &job.0) {
                left = Some(job);
                break;
            }
            jobs.push(job);
        }
        write_all(&shared, &mut link, &own, jobs).await;
    }
}

/// Whether a push of the same lane ends in the same transaction: their order matters.
fn is_settled_already(jobs: &[Job], work: &Work) -> bool {
    let Work::Settle(settlement) = work else { return false };
    jobs.iter()
        .any(|(work, _)| matches!(work, Work::Settle(other) if other.claim.lane == settlement.claim.lane))
}

async fn write_all(shared: &Shared, link: &mut Link, own: &mpsc::WeakSender<Job>, jobs: Vec<Job>) {
    let (works, callers): (Vec<Work>, Vec<_>) = jobs.into_iter().unzip();
    let error = match write(shared, link, &works).await {
        Ok(done) => {
            for (done, caller) in done.into_iter().zip(callers) {
                answer(own, caller, Ok(done));
            }
            return;
        }
        Err(error) => error,
    };
    shared.news.failed_commit();
    tracing::warn!(%error, jobs = works.len(), "a commit of the ledger failed");
    if works.len() > 1 && is_of_data(&error) {
        // One of them spoils it: each for itself, so that the others do not suffer.
        for (work, caller) in works.iter().zip(callers) {
            let done = write(shared, link, std::slice::from_ref(work)).await;
            answer(
                own,
                caller,
                done.and_then(|done| done.into_iter().next().ok_or(sqlx::Error::WorkerCrashed)),
            );
        }
        return;
    }
    for caller in callers {
        answer(own, caller, Err(copy(&error)));
    }
}

/// Answers a caller. One that has gone cannot push what was claimed for it.
fn answer(
    own: &mpsc::WeakSender<Job>,
    caller: oneshot::Sender<sqlx::Result<Done>>,
    done: sqlx::Result<Done>,
) {
    let Err(Ok(done)) = caller.send(done) else { return };
    let claims: Vec<Claim> = match done {
        Done::Invoked(invoked) => invoked.into_iter().filter_map(Invoked::into_claim).collect(),
        Done::Settled(claim) => claim.into_iter().collect(),
        Done::Taken(_) => Vec::new(),
    };
    let Some(queue) = own.upgrade() else { return };
    for claim in claims {
        // When the queue is full, the lease's end does the same.
        drop(queue.try_send((Work::Settle(Settlement { claim, pushed: None }), oneshot::channel().0)));
    }
}

/// Writes with one transaction, again when others were in the way.
async fn write(shared: &Shared, link: &mut Link, works: &[Work]) -> sqlx::Result<Vec<Done>> {
    let mut attempt = 1;
    loop {
        let written = tokio::time::timeout(WRITE_TIMEOUT, write_once(shared, link, works)).await;
        match written.unwrap_or_else(|_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()))) {
            Ok(Some(done)) => return Ok(done),
            Ok(None) if attempt < ATTEMPTS_MAX => {}
            Ok(None) => return Err(sqlx::Error::PoolTimedOut),
            Err(error) if attempt < ATTEMPTS_MAX && is_conflict(&error) => {}
            Err(error) => {
                link.0 = None;
                return Err(error);
            }
        }
        attempt += 1;
    }
}

/// None: something changed underneath; to be tried again.
async fn write_once(shared: &Shared, link: &mut Link, works: &[Work]) -> sqlx::Result<Option<Vec<Done>>> {
    let config = &shared.config;
    let mut transaction = link.connection(shared).await?.begin().await?;
    let mut journal = Journal::default();
    let invocations = works.iter().filter_map(|work| match work {
        Work::Invoke(invocation) => Some(invocation),
        _ => None,
    });
    let Some(mut invocations) = Invocations::begin(&mut transaction, invocations).await? else {
        return Ok(None);
    };
    let counted: BTreeSet<&Lane> = invocations.lanes().collect();
    let touched = works.iter().filter_map(|work| match work {
        Work::Invoke(_) => None,
        Work::Settle(settlement) => Some(&settlement.claim.lane),
        Work::Results(lane, _) => Some(lane),
    });
    let all: BTreeSet<&Lane> = counted.iter().copied().chain(touched).collect();
    let mut lanes = Lanes::lock(&mut transaction, &all, |lane| counted.contains(lane)).await?;

    let reported: Vec<Reported<'_>> = works.iter().flat_map(Work::reported).collect();
    let mut taken = Vec::new();
    if !reported.is_empty() {
        taken = results::take(&mut transaction, &mut lanes, &reported, &mut journal).await?;
    }
    let settlements: Vec<&Settlement> = works.iter().filter_map(Work::settlement).collect();
    if !settlements.is_empty() {
        settle::settle(&mut transaction, config, &mut lanes, &settlements, &mut journal).await?;
    }
    if invocations.write(&mut transaction, config, &mut lanes, &mut journal).await?.is_none() {
        return Ok(None);
    }
    let mut claims = claims::claim(&mut transaction, config, &mut lanes).await?;
    lanes.write(&mut transaction).await?;
    shared.commit(transaction, journal).await?;
    if lanes.are_to_be_looked_at() {
        // Not before: who looks passes over lanes that are held.
        shared.due.notify_one();
    }
    shared.news.committed(works.iter().map(Work::rows).sum());

    let mut taken = taken.into_iter();
    // A push that ended goes on with its lane; what it leaves is for those who have invoked.
    let mut settled: Vec<Option<Claim>> = settlements
        .iter()
        .map(|settlement| settlement.pushed.and_then(|_| claims.take(&settlement.claim.lane)))
        .collect();
    settled.reverse();
    let mut invoked = invocations.finish(&mut claims).into_iter();
    let done = works.iter().map(|work| match work {
        Work::Invoke(invocation) => Done::Invoked(invoked.by_ref().take(invocation.commands.len()).collect()),
        Work::Settle(_) => Done::Settled(settled.pop().flatten()),
        Work::Results(_, results) => Done::Taken(taken.by_ref().take(results.len()).collect()),
    });
    Ok(Some(done.collect()))
}

impl Work {
    fn settlement(&self) -> Option<&Settlement> {
        match self {
            Self::Settle(settlement) => Some(settlement),
            _ => None,
        }
    }

    fn reported(&self) -> impl Iterator<Item = Reported<'_>> {
        let (lane, results) = match self {
            Self::Results(lane, results) => (Some(lane), results.as_slice()),
            _ => (None, Default::default()),
        };
        lane.into_iter().flat_map(move |lane| results.iter().map(move |result| Reported { lane, result }))
    }
}

impl Invoked {
    pub(super) fn into_claim(self) -> Option<Claim> {
        match self {
            Self::New { claim, .. } => claim,
            _ => None,
        }
    }
}

fn code(error: &sqlx::Error) -> String {
    error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned()
}

/// serialization_failure, deadlock_detected, lock_not_available
fn is_conflict(error: &sqlx::Error) -> bool {
    matches!(&*code(error), "40001" | "40P01" | "55P03")
}

/// Whether a value is the cause, which a type or a constraint does not admit.
fn is_of_data(error: &sqlx::Error) -> bool {
    matches!(code(error).get(..2), Some("22" | "23" | "54"))
}

/// The error for another caller, as far as it says what the caller can do.
fn copy(error: &sqlx::Error) -> sqlx::Error {
    match error {
        sqlx::Error::PoolTimedOut => sqlx::Error::PoolTimedOut,
        sqlx::Error::PoolClosed => sqlx::Error::PoolClosed,
        sqlx::Error::WorkerCrashed => sqlx::Error::WorkerCrashed,
        sqlx::Error::Io(error) => sqlx::Error::Io(std::io::Error::new(error.kind(), error.to_string())),
        sqlx::Error::Database(database) => {
            let code = code(error);
            let passes = matches!(code.get(..2), Some("08" | "40" | "53" | "55" | "57" | "58"));
            let text = database.to_string();
            if passes { sqlx::Error::Io(std::io::Error::other(text)) } else { sqlx::Error::Protocol(text) }
        }
        other => sqlx::Error::Protocol(other.to_string()),
    }
}
