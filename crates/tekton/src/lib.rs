//! Tekton: applications, their versions, and the configuration of services for them and for tenants.
//!
//! It answers REST (`/tekton/api/v1`), answers other services over NATS whose an application or version is
//! and what is configured for it, learns from them what they take, and tells them when configuration changes
//! (17/SCMP). See the README for tables and keys.

mod config;
mod document;
mod domain;
mod error;
mod events;
mod handler;
mod instances;
mod removal;
mod rest;
mod schema;
mod store;

use std::time::Duration;

pub use config::Config;
pub use rest::ROUTES;

use ism::config::{
    CONFIGURATION_REQUEST, CONFIGURATION_RESPONSE, SERVICE_INSTANCE_ANNOUNCEMENT,
    SERVICE_INSTANCE_ANNOUNCEMENT_RESPONSE,
};
use ism::{scmp, tle};
use provider::Provider;
use runtime::{Context, Subjects};
use tokio::time::Instant;

use crate::events::Events;
use crate::rest::Api;
use crate::store::{MIGRATOR, Store};

/// The service.
pub struct Tekton;

impl runtime::Service for Tekton {
    const NAME: &'static str = "tekton";
    type Config = Config;
    const POSTGRES: bool = true;

    fn subjects() -> Subjects {
        Subjects::new()
            .serves(CONFIGURATION_REQUEST)
            .answers(CONFIGURATION_RESPONSE)
            .serves(SERVICE_INSTANCE_ANNOUNCEMENT)
            .answers(SERVICE_INSTANCE_ANNOUNCEMENT_RESPONSE)
            .hears(tle::UNREGISTERED)
            .emits(scmp::UPSERTED)
            .emits(scmp::DELETED)
            // Every service instance is told of its own configuration.
            .publishes(format!("kaa.v1.service.*.{}.{}", scmp::PROTOCOL, scmp::UPSERT.message_type))
            .publishes(format!("kaa.v1.service.*.{}.{}", scmp::PROTOCOL, scmp::DELETE.message_type))
    }

    fn check(config: &Config) -> Vec<(&'static str, String)> {
        config.faults()
    }

    async fn start(config: Config, context: Context) -> anyhow::Result<()> {
        let grace = Duration::from_millis(config.announcement_grace_ms);
        let concurrent_max = config.concurrent_requests_max;
        let store = Store::new(context.postgres(&MIGRATOR).await?, config);
        let events = Events::new(context.clone());
        let configuration = Provider {
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
        let announcements = Provider {
            subject: SERVICE_INSTANCE_ANNOUNCEMENT.service(context.instance()),
            name: "hear of service instances",
            concurrent_max,
        };
        let told = store.clone();
        provider::serve(&context, announcements, move |announcement| {
            let store = told.clone();
            async move { handler::hear(&store, announcement).await }
        })
        .await?;
        removal::start(&context, &store, &events).await?;
        context.mount(rest::router(Api { store, events, grace_until: Instant::now() + grace }));
        Ok(())
    }
}
