#![doc = include_str!("../README.md")]

mod batches;
mod changes;
mod cip;
mod config;
mod connected;
mod delivery;
mod device;
mod domain;
mod error;
mod invocation;
mod ledger;
mod removal;
mod rest;
mod topics;

use std::sync::Arc;

use extension::{Gateway, Limits};
use ism::endpoints::GET_REQUEST;
use ism::subject::instance;
use runtime::{Applications, Context, Description, Service, Subjects};
use tokio::sync::Semaphore;

pub use config::Config;
pub use rest::ROUTES;

use batches::Batches;
use changes::Changes;
use delivery::Dispatcher;
use device::Device;
use invocation::Invoker;
use ledger::{Ledger, MIGRATOR};
use topics::{Registers, Things, Topics};

/// The service.
pub struct Cex;

impl Service for Cex {
    const NAME: &'static str = "cex";
    const POSTGRES: bool = true;
    type Config = Config;

    const DESCRIPTION: Option<Description> = Some(Description {
        group: "Command invocation",
        text: "Carries commands to devices and their results back",
        app_schema: None,
        app_version_schema: None,
        tenant_schema: None,
    });

    fn subjects() -> Subjects {
        let own = extension::topic_subjects(extension::subjects())
            .reads_configuration()
            .asks(instance::EPR, GET_REQUEST)
            .emits(ism::commands::CHANGED)
            .hears(ism::commands::CHANGED);
        [batches::subjects, cip::subjects, connected::subjects, removal::subjects]
            .into_iter()
            .fold(own, |own, part| part(own))
    }

    fn check(config: &Config) -> Vec<(&'static str, String)> {
        config.faults()
    }

    async fn start(config: Config, context: Context) -> anyhow::Result<()> {
        let pool = context.postgres(&MIGRATOR).await?;
        ledger::look_up_by_index(&pool);
        let limits = Limits { in_flight_max: config.in_flight_messages_max, ..Limits::default() };
        let config = Arc::new(config);
        let changes = Arc::new(Changes::default());
        let applications = Applications::new(&context).await?;
        let gateway = Arc::new(Gateway::new(context.clone()));

        let ledger = Ledger::new(pool.clone(), config.clone(), changes.clone());
        ledger.start(&context).await?;
        let things = Things::new(Registers::new(pool.clone()), gateway.clone());
        let dispatcher = Dispatcher::start(&context, config.clone(), ledger.clone(), gateway.clone(), things);
        let invoker = Invoker::new(
            context.clone(),
            config.clone(),
            ledger.clone(),
            dispatcher.clone(),
            changes.clone(),
        );

        connected::start(&context, ledger.clone(), dispatcher, applications.clone()).await?;
        cip::start(&context, config.clone(), invoker.clone(), applications.clone()).await?;
        let batches = Batches::new(
            context.clone(),
            config.clone(),
            pool.clone(),
            ledger.clone(),
            invoker.clone(),
            applications.clone(),
        );
        batches.start();
        removal::start(&context, pool.clone(), ledger.clone(), invoker.clone(), batches.clone()).await?;
        let topics = Topics::new(
            context.clone(),
            config.clone(),
            pool,
            ledger.clone(),
            invoker.clone(),
            batches.clone(),
            gateway.clone(),
        );
        topics.start();
        let device = Device {
            ledger: ledger.clone(),
            changes: changes.clone(),
            applications: applications.clone(),
            config: config.clone(),
            topics: Some(topics.clone()),
        };
        extension::serve_with(&context, Arc::new(device), limits, gateway).await?;
        let api = rest::Api {
            batches,
            topics,
            feeds: Arc::new(Semaphore::new(config.feeds_max)),
            feed_reads: Arc::new(Semaphore::new(rest::FEED_READS_MAX)),
            lists: Arc::new(Semaphore::new(rest::LISTS_MAX)),
            config,
            ledger,
            invoker,
            changes,
            applications,
        };
        context.mount(rest::router(api));
        Ok(())
    }
}
