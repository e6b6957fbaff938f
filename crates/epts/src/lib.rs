//! EPTS, endpoint time series: takes points from data samples, stores them, answers for them, lets them be read.
//!
//! ```text
//! 13/DSTP ─► receiver ─┐                    ┌► writer: COMMIT ─► publisher ─► answer, then 14/TSTP
//! 14/TSTP ─► receiver ─┤                    │          │
//! REST PUT ─► api ─────┴► intake: extraction┘      (PostgreSQL)
//! REST GET ─► api ─► reads ◄───────────────────────────┤
//! 9/ELCE, 17/SCMP, 21/TLE ─► removals ─────────────────┘
//! ```
//!
//! A positive answer is given only after the COMMIT: then the points are durable and readable. See the README for the
//! tables, the limits and the reasons.

mod api;
mod books;
mod clock;
mod config;
mod date;
mod endpoints;
mod extraction;
mod intake;
mod iso8601;
mod json_path;
mod metrics;
mod partitions;
mod point;
mod publisher;
mod reads;
mod receiver;
mod removals;
mod series;
mod settings;
mod timestamp;
mod transmitted;
mod work;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use ism::subject::instance;
use ism::{dstp, tstp};
use runtime::{Applications, Context, Description, Service, Subjects};
use sqlx::PgPool;
use sqlx::migrate::Migrator;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use api::ROUTES;
pub use books::{Balance, MessageBalance, PointBalance};
pub use config::{Config, Receiver as ReceiverConfig, Transmitter, Tstp};
pub use reads::{PointValues, PointView};

use api::Api;
use books::Books;
use clock::Clock;
use endpoints::Endpoints;
use intake::Intake;
use metrics::Metrics;
use partitions::Partitions;
use publisher::Publisher;
use reads::Reads;
use receiver::Receiver;
use removals::Removals;
use series::SeriesRegister;
use writer::{Committer, Queue};

/// The JSON Schema of the settings, the same for an application and for a version of it.
const SETTINGS: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../proto-schemas/json/configuration/epts.app.schema.json"
));

static MIGRATOR: Migrator = sqlx::migrate!("./migrations");

/// Committed batches that may wait to be answered; then the writers wait.
const DONE_MAX: usize = 4;

/// The service.
#[derive(Debug, Clone, Copy)]
pub struct Epts;

impl Service for Epts {
    const NAME: &'static str = "epts";
    const POSTGRES: bool = true;
    type Config = Config;

    const DESCRIPTION: Option<Description> = Some(Description {
        group: "Data collection",
        text: "Takes points from data samples, stores them and lets them be read",
        app_schema: Some(SETTINGS),
        app_version_schema: Some(SETTINGS),
        tenant_schema: None,
    });

    fn subjects() -> Subjects {
        removals::subjects(Subjects::new())
            .reads_configuration()
            .hears(dstp::DATA_SAMPLES_RECEIVED)
            .answers(dstp::DATA_SAMPLES_PROCESSED)
            .hears_about(tstp::DATA_POINTS_RECEIVED)
            .answers(tstp::TIME_SERIES_PROCESSED)
            .emits_about(tstp::DATA_POINTS_RECEIVED)
            .asks(instance::EPR, ism::endpoints::GET_REQUEST)
    }

    fn check(config: &Config) -> Vec<(&'static str, String)> {
        config.check()
    }

    async fn start(config: Config, context: Context) -> anyhow::Result<()> {
        let pool = context.postgres(&MIGRATOR).await?;
        let applications = Applications::new(&context).await?;
        let partitions = Arc::new(Partitions::new(config.partition_days, config.retention_days));
        maintain(&context, &config, &partitions, &pool).await?;

        let books = Arc::new(Books::new(size(config.applications_labelled_max)));
        let metrics = Arc::new(Metrics::new(&books));
        let clock = Arc::new(Clock::default());
        let publisher = Publisher::new(context.nats().clone(), context.instance().clone());
        let finish = CancellationToken::new();
        let register =
            SeriesRegister::new(size(config.endpoints_cached_max), size(config.series_per_endpoint_max));
        let register = Arc::new(register);
        let committer = |done| Committer {
            pool: pool.clone(),
            register: register.clone(),
            partitions: partitions.clone(),
            clock: clock.clone(),
            metrics: metrics.clone(),
            rows_max: size(config.commit_rows_max),
            done,
        };
        let queue = start_writers(&context, &config, &publisher, &finish, committer);
        let config = Arc::new(config);
        let reads = Reads::new(pool.clone(), config.points_per_query_max, config.bytes_per_query_max);
        let intake = Intake { queue, books: books.clone(), clock, metrics, config };

        let endpoints = Endpoints::new(context.clone());
        let api = Api { reads, intake: intake.clone(), books, applications: applications.clone(), endpoints };
        context.mount(rest::service(Self::NAME, ROUTES, api::routes(api)));

        Removals::start(&context, applications.clone(), pool).await?;
        let receiver = Arc::new(Receiver::new(applications, intake, publisher));
        receive(&context, &receiver, finish).await
    }
}

/// Receives samples and points until the service stops. When all that came is queued, the writers are told to finish it.
async fn receive(
    context: &Context,
    receiver: &Arc<Receiver>,
    finish: CancellationToken,
) -> anyhow::Result<()> {
    let queue = Some(context.instance().as_str());
    let finish = Arc::new(finish.drop_guard());
    for (transmitter, own) in receiver.transmitters() {
        let subject = format!("{}.*", tstp::DATA_POINTS_RECEIVED.of(&transmitter));
        let subscription = context.subscribe(subject, queue).await?;
        let accepted = own.time_series.into_iter().collect();
        let (receiver, finish) = (receiver.clone(), finish.clone());
        context.spawn("receive points", async move {
            receiver.run_points(subscription, accepted).await;
            drop(finish);
            Ok(())
        });
    }
    let subscription = context.subscribe(dstp::DATA_SAMPLES_RECEIVED.of_any(), queue).await?;
    let receiver = receiver.clone();
    context.spawn("receive data samples", async move {
        receiver.run(subscription).await;
        drop(finish);
        Ok(())
    });
    Ok(())
}

/// Starts the writers and the one who answers what they have done.
fn start_writers(
    context: &Context,
    config: &Config,
    publisher: &Publisher,
    finish: &CancellationToken,
    committer: impl Fn(mpsc::Sender<Vec<publisher::Done>>) -> Committer,
) -> Queue {
    let (done, committed) = mpsc::channel(DONE_MAX);
    let mut writers = Vec::new();
    for _ in 0..config.writers {
        let (sender, queue) = mpsc::channel(size(config.queue_messages_max));
        writers.push(sender);
        let (committer, finish) = (committer(done.clone()), finish.clone());
        context.spawn("store points", async move {
            committer.run(queue, finish).await;
            Ok(())
        });
    }
    let publisher = publisher.clone();
    context.spawn("answer", async move {
        publisher.run(committed).await;
        Ok(())
    });
    Queue::new(writers, size(config.queue_bytes_max))
}

/// Makes the partitions that are needed first, and keeps making and dropping them.
async fn maintain(
    context: &Context,
    config: &Config,
    partitions: &Arc<Partitions>,
    pool: &PgPool,
) -> anyhow::Result<()> {
    partitions.maintain(pool, config.future_max_ms).await?;
    let (partitions, pool, ahead_ms) = (partitions.clone(), pool.clone(), config.future_max_ms);
    let interval = Duration::from_millis(config.maintenance_interval_ms.into());
    let stopping = context.stopping();
    context.spawn("maintain partitions", async move {
        while stopping.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
            if let Err(error) = partitions.maintain(&pool, ahead_ms).await {
                tracing::warn!(%error, "partitions could not be maintained; trying again later");
            }
        }
        Ok(())
    });
    Ok(())
}

/// On every platform that this runs on a size holds 32 bits.
fn size(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
