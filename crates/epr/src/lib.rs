//! The endpoint register: endpoints, the digital twins of devices.
//!
//! It answers REST (`/epr/api/v1`), answers other services over NATS (where an endpoint belongs, 19/EPMMP, 20/EFMP), has
//! `cm` make the first token of each new endpoint and delete those of a deleted one, and tells all services what happens
//! to endpoints (9/ELCE, 15/EME, 18/EFE). See the README for tables and keys.

mod announcer;
mod batch;
mod carry;
mod config;
mod domain;
mod error;
mod filters;
mod followers;
mod metadata;
mod providers;
mod registration;
mod removal;
mod rest;
mod search;
mod store;
mod tokens;
mod updates;

pub use config::Config;
pub use filters::FiltersConfig;
pub use rest::ROUTES;

use ism::subject::instance;
use ism::{elce, eme, endpoints, epmmp, scmp, tle, tokens as token_protocol};
use runtime::{Applications, Context, Description, Subjects};

use crate::announcer::Announcer;
use crate::batch::{Batches, Sealer};
use crate::filters::Filters;
use crate::providers::Register;
use crate::registration::Registrar;
use crate::removal::Remover;
use crate::rest::Api;
use crate::store::{MIGRATOR, Store};
use crate::tokens::Tokens;
use crate::updates::Updates;

/// The service.
pub struct Epr;

impl runtime::Service for Epr {
    const NAME: &'static str = "epr";
    type Config = Config;
    const POSTGRES: bool = true;
    const DESCRIPTION: Option<Description> = Some(Description {
        group: "Device management",
        text: "The endpoint register: endpoints, their metadata, relations and filters.",
        app_schema: None,
        app_version_schema: None,
        tenant_schema: None,
    });

    fn subjects() -> Subjects {
        let subjects = Subjects::new()
            .reads_configuration()
            .asks(instance::CM, token_protocol::CREATE_REQUEST)
            .asks(instance::CM, token_protocol::DELETE_REQUEST)
            .serves(endpoints::GET_REQUEST)
            .answers(endpoints::GET_RESPONSE)
            .emits(elce::REGISTERED)
            .emits(elce::APP_VERSION_UPDATED)
            .emits(elce::UNREGISTERED)
            .emits(eme::METADATA_UPDATED)
            .hears(elce::CONNECTED)
            .hears(scmp::DELETED)
            .hears(tle::UNREGISTERED);
        let subjects = [
            (epmmp::EP_METADATA_GET_REQUEST, epmmp::EP_METADATA_GET_RESPONSE),
            (epmmp::EP_METADATA_PATCH_REQUEST, epmmp::EP_METADATA_PATCH_RESPONSE),
            (epmmp::EP_METADATA_KEY_UPDATE_REQUEST, epmmp::EP_METADATA_KEY_UPDATE_RESPONSE),
            (epmmp::EP_METADATA_KEY_BATCH_UPDATE_REQUEST, epmmp::EP_METADATA_KEY_BATCH_UPDATE_RESPONSE),
            (epmmp::EP_METADATA_KEYS_GET_REQUEST, epmmp::EP_METADATA_KEYS_GET_RESPONSE),
            (epmmp::EP_APP_VERSION_GET_REQUEST, epmmp::EP_APP_VERSION_GET_RESPONSE),
        ]
        .into_iter()
        .fold(subjects, |subjects, (request, response)| subjects.serves(request).answers(response));
        filters::subjects(subjects)
    }

    fn check(config: &Config) -> Vec<(&'static str, String)> {
        config.faults()
    }

    async fn start(config: Config, context: Context) -> anyhow::Result<()> {
        let api = assemble(&config, &context).await?;
        let register =
            Register { context: context.clone(), store: api.store.clone(), updates: api.updates.clone() };
        providers::start(&register, config.concurrent_requests_max).await?;
        followers::start(&context, &api.store, &api.updates, &api.remover).await?;
        context.spawn("delete endpoints", api.remover.clone().sweep(config.sweep_interval()));
        context.spawn("work off batch tasks", api.batches.clone().work());
        context.mount(rest::router(api));
        Ok(())
    }
}

/// Puts the parts of the service together.
async fn assemble(config: &Config, context: &Context) -> anyhow::Result<Api> {
    let store = Store::new(context.postgres(&MIGRATOR).await?);
    let applications = Applications::new(context).await?;
    let announcer = Announcer::new(context.clone());
    let tokens = Tokens::new(context.clone(), config.token_timeout())?;
    let sealer = Sealer::new(&config.batch_key)?;
    if config.batch_key.is_empty() {
        tracing::warn!(
            "without epr.batch_key, tokens of batch tasks cannot be read after this process has ended"
        );
    }
    let updates = Updates::new(
        context.clone(),
        announcer.clone(),
        applications.clone(),
        store.clone(),
        config.metadata_limits(),
    );
    let registrar = Registrar::new(
        context.clone(),
        announcer.clone(),
        updates.clone(),
        tokens.clone(),
        sealer.clone(),
        store.clone(),
        config.clone(),
    );
    let pool = store.pool().clone();
    let concurrent_max = config.concurrent_requests_max;
    let filters =
        Filters::start(context, pool, applications.clone(), &config.filters, concurrent_max).await?;
    let remover = Remover::new(
        context.clone(),
        announcer,
        applications,
        tokens,
        filters.clone(),
        store.clone(),
        config.token_timeout(),
    );
    let batches = Batches::new(context.clone(), registrar.clone(), sealer, store.clone(), config.clone());
    Ok(Api {
        store,
        registrar,
        updates,
        remover,
        batches,
        filters,
        list_offset_max: config.list_offset_max,
        list_metadata_bytes_max: config.list_metadata_bytes_max,
        relations_per_endpoint_max: config.relations_per_endpoint_max,
    })
}
