#![doc = include_str!("../README.md")]

mod config;
mod gateways;
mod intake;
mod journal;
mod metadata;
mod metrics;
mod points;
mod presence;
mod rest;
mod settings;
mod store;
mod teller;

use std::sync::Arc;
use std::time::Duration;

use ids::EndpointId;
use ism::elce::UNREGISTERED;
use ism::epmmp::EP_METADATA_KEY_BATCH_UPDATE_REQUEST;
use ism::session::REPLICA_ALIVE;
use ism::subject::instance;
use ism::tstp::{self, DATA_POINTS_RECEIVED};
use ism::{Record as _, UnregisteredEvent};
use runtime::{Applications, Context, Description, Service, Subjects, Subscription};
use tokio::sync::Notify;

pub use config::Config;
pub use rest::ROUTES;

use gateways::{Gateways, Watch};
use intake::Intake;
use metrics::Metrics;
use rest::Api;
use store::{MIGRATOR, Store};
use teller::Teller;

/// The JSON Schema of the settings, the same for an application and for a version of it.
const SETTINGS: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../proto-schemas/json/configuration/epl.app.schema.json"
));

/// How often the removal of an endpoint is tried. The endpoint register tells of it again later.
const REMOVAL_ATTEMPTS: u32 = 5;

/// The service.
pub struct Epl;

impl Service for Epl {
    const NAME: &'static str = "epl";
    const POSTGRES: bool = true;
    type Config = Config;

    const DESCRIPTION: Option<Description> = Some(Description {
        group: "Communication",
        text: "Tells whether endpoints are connected, as metadata and as a time series",
        app_schema: Some(SETTINGS),
        app_version_schema: Some(SETTINGS),
        tenant_schema: None,
    });

    fn subjects() -> Subjects {
        journal::subjects(Subjects::new())
            .reads_configuration()
            .hears(REPLICA_ALIVE)
            .hears(UNREGISTERED)
            .asks(instance::EPR, EP_METADATA_KEY_BATCH_UPDATE_REQUEST)
            .emits_about(DATA_POINTS_RECEIVED)
            .receives(tstp::PROTOCOL)
    }

    fn check(config: &Config) -> Vec<(&'static str, String)> {
        config.faults()
    }

    async fn start(config: Config, context: Context) -> anyhow::Result<()> {
        let pool = context.postgres(&MIGRATOR).await?;
        let config = Arc::new(config);
        let store = Store::new(pool, Duration::from_millis(config.retry_pause_max_ms.into()));
        let (gateways, metrics, changed) =
            (Arc::<Gateways>::default(), Arc::new(Metrics::new()), Arc::new(Notify::new()));
        let applications = Applications::new(&context).await?;

        let intake = Intake {
            context: context.clone(),
            config: config.clone(),
            store: store.clone(),
            gateways: gateways.clone(),
            metrics: metrics.clone(),
            changed: changed.clone(),
        };
        let journal = intake.open().await?;
        let alive = context.subscribe(REPLICA_ALIVE.of_any(), None).await?;
        let queue = context.instance().to_string();
        let unregistered = context.subscribe(UNREGISTERED.of_any(), Some(&queue)).await?;

        let api = Api { store: store.clone(), applications: applications.clone() };
        let teller = Teller {
            context: context.clone(),
            config: config.clone(),
            store: store.clone(),
            applications,
            metrics: metrics.clone(),
            changed: changed.clone(),
        };
        for _ in 0..config.metadata_writers {
            context.spawn("write connectivity to metadata", teller.clone().run(metadata::round));
        }
        context.spawn("send connectivity as points", teller.run(points::round));
        context.spawn("hear of gateways", Watch::hear(gateways.clone(), store.clone(), alive));
        let watch =
            Watch { context: context.clone(), config, store: store.clone(), gateways, metrics, changed };
        context.spawn("watch the gateways", watch.run());
        context.spawn("take connectivity in", intake.run(journal));
        context.spawn("forget endpoints", forget(store, unregistered));
        context.mount(rest::router(api));
        Ok(())
    }
}

/// Removes what is known of endpoints that are deleted.
async fn forget(store: Store, mut events: Subscription) -> anyhow::Result<()> {
    while let Some(message) = events.next().await {
        let gone = UnregisteredEvent::decode(&message.payload)
            .inspect_err(|error| tracing::warn!(%error, "the end of an endpoint cannot be read"))
            .ok()
            .and_then(|event| Some((EndpointId::parse(&event.endpoint_id).ok()?, event.timestamp)));
        let Some((endpoint, gone_ms)) = gone else { continue };
        for attempt in 1..=REMOVAL_ATTEMPTS {
            match store.remove(&endpoint, gone_ms).await {
                Ok(()) => break,
                Err(error) => tracing::warn!(%error, attempt, "a deleted endpoint could not be removed"),
            }
            tokio::time::sleep(Duration::from_millis(100) * attempt).await;
        }
    }
    Ok(())
}
