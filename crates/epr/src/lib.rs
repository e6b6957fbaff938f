//! The endpoint register: endpoints, the digital twins of devices.
//!
//! It answers REST (`/epr/api/v1`), answers other services over NATS where an endpoint belongs, has `cm` make
//! the first token of each new endpoint, and tells all services of it (9/ELCE). See the README for tables and
//! keys.

mod config;
mod domain;
mod error;
mod handler;
mod registration;
mod rest;
mod store;
mod tokens;

pub use config::Config;

use ism::endpoints::GET_REQUEST;
use runtime::Context;

use crate::registration::Registrar;
use crate::rest::Api;
use crate::store::{MIGRATOR, Store};

/// The service.
pub struct Epr;

impl runtime::Service for Epr {
    const NAME: &'static str = "epr";
    type Config = Config;
    const POSTGRES: bool = true;

    fn check(config: &Config) -> Vec<(&'static str, String)> {
        config.faults()
    }

    async fn start(config: Config, context: Context) -> anyhow::Result<()> {
        let store = Store::new(context.postgres(&MIGRATOR).await?);
        let lookups = provider::Provider {
            subject: GET_REQUEST.service(context.instance()),
            name: "answer where endpoints belong",
            concurrent_max: config.concurrent_requests_max,
        };
        let asked = store.clone();
        provider::serve(&context, lookups, move |request| {
            let store = asked.clone();
            async move { handler::answer(&store, request).await }
        })
        .await?;
        let registrar = Registrar::new(context.clone(), store.clone(), config).await?;
        context.mount(rest::router(Api { store, registrar }));
        Ok(())
    }
}
