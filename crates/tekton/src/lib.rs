//! Tekton: applications, their versions, and the configuration of services for them.
//!
//! It answers REST (`/tekton/api/v1`), answers other services over NATS whose an application or version is
//! and what is configured for it, and tells them when that changes (17/SCMP). See the README for tables and
//! keys.

mod config;
mod document;
mod domain;
mod error;
mod events;
mod handler;
mod rest;
mod store;

pub use config::Config;

use ism::config::CONFIGURATION_REQUEST;
use runtime::Context;

use crate::events::Events;
use crate::rest::Api;
use crate::store::{MIGRATOR, Store};

/// The service.
pub struct Tekton;

impl runtime::Service for Tekton {
    const NAME: &'static str = "tekton";
    type Config = Config;
    const POSTGRES: bool = true;

    fn check(config: &Config) -> Vec<(&'static str, String)> {
        config.faults()
    }

    async fn start(config: Config, context: Context) -> anyhow::Result<()> {
        let concurrent_max = config.concurrent_requests_max;
        let store = Store::new(context.postgres(&MIGRATOR).await?, config);
        let configuration = provider::Provider {
            subject: CONFIGURATION_REQUEST.service(context.instance()),
            name: "answer configuration requests",
            concurrent_max,
        };
        let asked = store.clone();
        provider::serve(&context, configuration, move |request| {
            let store = asked.clone();
            async move { handler::answer(&store, request).await }
        })
        .await?;
        context.mount(rest::router(Api { store, events: Events::new(context.clone()) }));
        Ok(())
    }
}
