//! The loop that commits.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use sqlx::pool::PoolConnection;
use sqlx::{PgPool, Postgres};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::failure::Cause;
use super::insert::{self, Progress, Written};
use super::rows::Batch;
use crate::books::Book;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::partitions::Partitions;
use crate::point::Stamp;
use crate::publisher::Done;
use crate::series::{Resolved, SeriesRegister};
use crate::work::{Outcome, Work};

/// How often a commit is repeated when others were in its way.
const ATTEMPTS_MAX: usize = 5;
/// Messages that are taken from the queue at once.
const TAKE_MAX: usize = 4_096;

/// One writer.
pub(crate) struct Committer {
    pub(crate) pool: PgPool,
    pub(crate) register: Arc<SeriesRegister>,
    pub(crate) partitions: Arc<Partitions>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) rows_max: usize,
    /// Where committed messages go to be answered.
    pub(crate) done: mpsc::Sender<Vec<Done>>,
}

impl Committer {
    /// Commits what comes until `finish` is cancelled, and then what is left.
    pub(crate) async fn run(self, mut queue: mpsc::Receiver<Work>, finish: CancellationToken) {
        let mut waiting: Vec<Work> = Vec::new();
        loop {
            if waiting.is_empty() {
                let taken = tokio::select! {
                    taken = queue.recv_many(&mut waiting, TAKE_MAX) => taken,
                    () = finish.cancelled(), if !queue.is_closed() => {
                        queue.close();
                        continue;
                    }
                };
                if taken == 0 {
                    return;
                }
            }
            while waiting.len() < TAKE_MAX
                && let Ok(work) = queue.try_recv()
            {
                waiting.push(work);
            }
            let count = take(&waiting, self.rows_max);
            let rest = waiting.split_off(count);
            let batch = std::mem::replace(&mut waiting, rest);
            let done = self.store(batch).await;
            if self.done.send(done).await.is_err() {
                // The publisher has gone; the process is ending.
                return;
            }
        }
    }

    /// Decides about every message of a batch.
    async fn store(&self, batch: Vec<Work>) -> Vec<Done> {
        let now_ms = runtime::now_ms();
        let (expired, mut batch): (Vec<Work>, Vec<Work>) =
            batch.into_iter().partition(|work| work.is_expired(now_ms));
        let mut done: Vec<Done> = expired.into_iter().map(|work| (work, Outcome::Expired)).collect();
        if batch.is_empty() {
            return done;
        }
        let mut progress = Progress::default();
        match self.commit(&mut batch, &mut progress).await {
            Ok(outcomes) => done.extend(batch.into_iter().zip(outcomes)),
            // One of the messages spoils the batch: each for itself, so that the others do not suffer.
            Err(Cause::Data | Cause::Restamp) if batch.len() > 1 => {
                for work in batch {
                    done.push(self.store_alone(work, progress).await);
                }
            }
            Err(cause) => done.extend(batch.into_iter().map(|work| (work, outcome(cause, progress)))),
        }
        done
    }

    /// Stores a message of a batch that failed and had come so far.
    async fn store_alone(&self, work: Work, mut progress: Progress) -> Done {
        if work.is_expired(runtime::now_ms()) {
            let outcome = if progress.may_be_stored { Outcome::unknown_end() } else { Outcome::Expired };
            return (work, outcome);
        }
        let mut alone = vec![work];
        let committed = self.commit(&mut alone, &mut progress).await;
        let outcome = match committed {
            Ok(outcomes) => outcomes.into_iter().next().unwrap_or_else(Outcome::unknown_end),
            Err(cause) => outcome(cause, progress),
        };
        // `alone` holds exactly the message that was put in.
        (alone.swap_remove(0), outcome)
    }

    /// Commits a batch as a whole, again where that may help. Messages over a limit are left out.
    async fn commit(&self, batch: &mut [Work], progress: &mut Progress) -> Result<Vec<Outcome>, Cause> {
        let started = Instant::now();
        let mut attempt = 1;
        loop {
            let error = match self.attempt(batch, progress).await {
                Ok(outcomes) => {
                    let points = batch.iter().map(Work::point_count).sum();
                    self.metrics.commit(started.elapsed(), points);
                    return Ok(outcomes);
                }
                Err(error) => error,
            };
            let cause = Cause::of(&error);
            self.metrics.commit_failure(cause.name());
            let again = match cause {
                Cause::Restamp => {
                    self.metrics.restamp();
                    self.restamp(batch);
                    true
                }
                Cause::Conflict => true,
                Cause::PartitionGone => {
                    self.partitions.forget();
                    true
                }
                Cause::Data | Cause::Unavailable | Cause::Internal => false,
            };
            if !again || attempt >= ATTEMPTS_MAX {
                let may_be_stored = progress.may_be_stored;
                tracing::warn!(%error, cause = cause.name(), may_be_stored, messages = batch.len(), "a commit failed");
                return Err(cause);
            }
            attempt += 1;
        }
    }

    async fn attempt(&self, batch: &[Work], progress: &mut Progress) -> sqlx::Result<Vec<Outcome>> {
        let mut connection = self.pool.acquire().await?;
        let resolved = self.resolve(&mut connection, batch).await?;
        let works =
            batch.iter().zip(&resolved).filter_map(|(work, series)| Some((work, series.as_deref().ok()?)));
        let rows = Batch::new(works).ok_or(sqlx::Error::RowNotFound)?;
        let missing = self.partitions.missing(rows.moments());
        if !missing.is_empty() {
            self.partitions.make(&mut connection, &missing).await?;
        }
        let written = insert::write(&mut connection, &rows, progress).await?;
        keep_books(batch, &resolved, &written);
        let outcome = |series: &Result<_, crate::series::TooManySeries>| match series {
            Ok(_) => Outcome::Stored,
            Err(error) => {
                Outcome::Refused { reason: "too-many-series", status_code: 429, message: error.to_string() }
            }
        };
        Ok(resolved.iter().map(outcome).collect())
    }

    async fn resolve(
        &self,
        connection: &mut PoolConnection<Postgres>,
        batch: &[Work],
    ) -> sqlx::Result<Resolved> {
        match self.register.known(batch) {
            Some(resolved) => Ok(resolved),
            None => self.register.resolve(connection, batch).await,
        }
    }

    /// Gives every sample at server time another moment; nothing of the batch is stored yet.
    fn restamp(&self, batch: &mut [Work]) {
        for sample in batch.iter_mut().flat_map(|work| &mut work.samples) {
            if let Stamp::Server(moment) = &mut sample.stamp {
                *moment = self.clock.next();
            }
        }
    }
}

/// How many messages from the front make up the next commit: at least one.
fn take(waiting: &[Work], rows_max: usize) -> usize {
    let mut rows = 0;
    let fits = |work: &&Work| {
        let is_first = rows == 0;
        rows += work.points.max(1);
        is_first || rows <= rows_max
    };
    waiting.iter().take_while(fits).count()
}

/// Writes into each application's book what became of its points. A series belongs to one application.
fn keep_books(batch: &[Work], resolved: &Resolved, written: &Written) {
    let mut books: HashMap<i64, &Arc<Book>> = HashMap::with_capacity(written.len());
    for (work, series) in batch.iter().zip(resolved) {
        let Ok(series) = series else { continue };
        books.extend(
            work.series().filter_map(|name| series.id(name)).map(|series_id| (series_id, &work.book)),
        );
    }
    for (series_id, tally) in written {
        if let Some(book) = books.get(series_id) {
            book.store_points(*tally);
        }
    }
}

/// What a failed commit means for a message in it.
fn outcome(cause: Cause, progress: Progress) -> Outcome {
    if progress.may_be_stored {
        return Outcome::unknown_end();
    }
    let (status_code, message) = match cause {
        Cause::Data => {
            let message = "the database cannot hold a value of this message; see the log of epts";
            return Outcome::Refused { reason: "database", status_code: 400, message: message.to_owned() };
        }
        Cause::Unavailable => (503, "the database of epts cannot store now; try again later"),
        Cause::Restamp | Cause::Conflict | Cause::PartitionGone => {
            (503, "epts is busy with conflicting data; try again")
        }
        Cause::Internal => (500, "epts could not store the message; see its log"),
    };
    Outcome::Failed { status_code, message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use ids::{AppVersionName, ApplicationName, EndpointId, TenantId, TimeSeriesName};
    use runtime::Version;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::point::{Micros, Point, Sample, Values};
    use crate::work::{AnswerTo, Protocol};

    async fn committer() -> (testkit::Database, Committer) {
        let database = testkit::database().await;
        let config = store::Config { url: database.url.clone(), ..store::Config::default() };
        let committer = Committer {
            pool: store::open(&config, "epts", &crate::MIGRATOR).await.unwrap(),
            register: Arc::new(SeriesRegister::new(10, 10)),
            partitions: Arc::new(Partitions::new(7, 0)),
            clock: Arc::default(),
            metrics: Arc::new(Metrics::new(&Arc::default())),
            rows_max: 100,
            done: mpsc::channel(1).0,
        };
        (database, committer)
    }

    fn work(stamps: &[Stamp]) -> Work {
        let series = TimeSeriesName::parse("auto~t").unwrap();
        let sample = |stamp: &Stamp| Sample {
            stamp: *stamp,
            points: vec![Point { series: series.clone(), values: Values::Number(1.0) }],
        };
        let version = Version {
            tenant_id: TenantId::parse("acme").unwrap(),
            app_name: ApplicationName::parse("app").unwrap(),
            app_version_name: AppVersionName::parse("app-v1").unwrap(),
            config: Default::default(),
        };
        Work {
            version: Arc::new(version),
            endpoint_id: EndpointId::parse("e").unwrap(),
            correlation_id: "test".to_owned(),
            samples: stamps.iter().map(sample).collect(),
            points: stamps.len(),
            deadline_ms: None,
            answer_to: AnswerTo::Transmitter(Protocol::Samples, None),
            book: Arc::default(),
            span: tracing::Span::none(),
            share: Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap(),
        }
    }

    /// The status of a message that one commit was about.
    fn status(done: Vec<Done>) -> i32 {
        match done.into_iter().map(|(_, outcome)| outcome).collect::<Vec<_>>().as_slice() {
            [Outcome::Stored] => 200,
            [Outcome::Failed { status_code, .. }] => *status_code,
            other => panic!("{other:?}"),
        }
    }

    async fn count(committer: &Committer) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM point").fetch_one(&committer.pool).await.unwrap()
    }

    /// What happens when another replica has given an endpoint the same server time.
    #[tokio::test]
    async fn a_server_time_that_is_taken_is_replaced() {
        let (_database, committer) = committer().await;
        let taken = Stamp::Server(Micros::now());
        let outcomes = |done: Vec<Done>| done.into_iter().map(|(_, outcome)| outcome).collect::<Vec<_>>();
        assert_eq!(outcomes(committer.store(vec![work(&[taken])]).await), [Outcome::Stored]);
        // Alone, together with a device's time, and twice in one batch.
        assert_eq!(outcomes(committer.store(vec![work(&[taken])]).await), [Outcome::Stored]);
        let device = Stamp::Device(Micros::new(1_700_000_000_000_000).unwrap());
        assert_eq!(outcomes(committer.store(vec![work(&[taken, device])]).await), [Outcome::Stored]);
        let batch = vec![work(&[taken]), work(&[taken])];
        assert_eq!(outcomes(committer.store(batch).await), [Outcome::Stored, Outcome::Stored]);
        assert_eq!(count(&committer).await, 6);
        // A device's time on a server's: nothing is overwritten then, either.
        let own = Stamp::Device(taken.moment());
        assert_eq!(outcomes(committer.store(vec![work(&[taken, own])]).await), [Outcome::Stored]);
    }

    fn device_time(seconds: i64) -> Stamp {
        Stamp::Device(Micros::new((1_700_000_000 + seconds) * 1_000_000).unwrap())
    }

    /// Makes every INSERT or UPDATE of a point fail with a deadlock.
    async fn deadlock_at(committer: &Committer, operation: &str) {
        let sql = format!(
            "CREATE FUNCTION deadlock() RETURNS trigger LANGUAGE plpgsql AS
                 $$BEGIN RAISE EXCEPTION 'deadlock' USING ERRCODE = '40P01'; END$$;
             CREATE TRIGGER deadlock BEFORE {operation} ON point FOR EACH ROW EXECUTE FUNCTION deadlock()"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&committer.pool).await.unwrap();
    }

    #[tokio::test]
    async fn an_answered_failure_is_told_apart_from_one_that_left_something() {
        let (_database, committer) = committer().await;
        let known = device_time(0);
        assert_eq!(status(committer.store(vec![work(&[known])]).await), 200);
        deadlock_at(&committer, "UPDATE").await;
        // The new point is committed before the other one fails.
        let mut both = work(&[known, device_time(1)]);
        both.samples[0].points[0].values = Values::Number(2.0);
        assert_eq!(status(committer.store(vec![both]).await), 504);
        assert_eq!(count(&committer).await, 2);

        let (_database, committer) = self::committer().await;
        assert_eq!(status(committer.store(vec![work(&[known])]).await), 200);
        deadlock_at(&committer, "INSERT").await;
        for stamps in [
            vec![Stamp::Server(Micros::now())],
            vec![device_time(2)],
            vec![Stamp::Server(Micros::now()), known],
        ] {
            assert_eq!(status(committer.store(vec![work(&stamps)]).await), 503, "{stamps:?}");
        }
        assert_eq!(count(&committer).await, 1);
    }

    /// A session that ends while it writes may have committed; within a transaction it has not.
    #[tokio::test]
    async fn a_session_that_is_ended_leaves_the_end_open_unless_commit_was_not_sent() {
        let (database, committer) = committer().await;
        assert_eq!(
            status(committer.store(vec![work(&[device_time(0), Stamp::Server(Micros::now())])]).await),
            200
        );
        let other = sqlx::PgPool::connect(&database.url).await.unwrap();
        let server = Stamp::Server(Micros::now());
        for (stamps, expected) in
            [(vec![server], 504), (vec![device_time(1)], 504), (vec![server, device_time(1)], 503)]
        {
            let mut lock = other.begin().await.unwrap();
            sqlx::query("LOCK TABLE epts.point IN SHARE MODE").execute(&mut *lock).await.unwrap();
            let ending = testkit::eventually(
                "it waits for the lock",
                std::time::Duration::from_secs(20),
                async || {
                    let ended: Vec<bool> = sqlx::query_scalar(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                     WHERE datname = current_database() AND wait_event_type = 'Lock'",
                    )
                    .fetch_all(&other)
                    .await
                    .unwrap();
                    (!ended.is_empty()).then_some(())
                },
            );
            let (done, ()) = tokio::join!(committer.store(vec![work(&stamps)]), ending);
            assert_eq!(status(done), expected, "{stamps:?}");
            lock.rollback().await.unwrap();
        }
        assert_eq!(count(&committer).await, 2);
    }

    #[test]
    fn a_commit_takes_whole_messages_up_to_its_limit() {
        let stamp = Stamp::Server(Micros::now());
        let waiting = [work(&[stamp; 3]), work(&[stamp; 3]), work(&[stamp; 1])];
        for (rows_max, expected) in [(1, 1), (3, 1), (5, 1), (6, 2), (7, 3), (100, 3)] {
            assert_eq!(take(&waiting, rows_max), expected, "{rows_max}");
        }
    }
}
