//! Endpoint tokens: the secrets by which devices are known.
//!
//! It answers the gateway over NATS whose a token is (16/ECAP), makes tokens for the endpoint register and
//! over REST (`/cm/api/v1`), and tells all services when one has become useless. See the README for tables
//! and keys.

mod announcer;
mod config;
mod endpoints;
mod error;
mod handler;
mod metrics;
mod registry;
mod removal;
mod rest;
mod secret;
mod status;
mod store;

use std::sync::Arc;

pub use config::Config;
pub use rest::ROUTES;

use anyhow::Context as _;
use ism::ecap::{
    EP_TOKEN_REQUEST, EP_TOKEN_RESPONSE, EP_TOKEN_REVOKED, EP_TOKEN_STATUS_TRANSITION_REQUEST,
    EP_TOKEN_STATUS_TRANSITION_RESPONSE,
};
use ism::subject::{Message, instance};
use ism::tokens::{CREATE_REQUEST, CREATE_RESPONSE, DELETE_REQUEST, DELETE_RESPONSE};
use ism::{Envelope, Record, elce, endpoints as epr, tle};
use runtime::{Context, Subjects};

use crate::announcer::Announcer;
use crate::endpoints::Endpoints;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::rest::Api;
use crate::secret::TokenKey;
use crate::store::{MIGRATOR, Store};

/// The service.
pub struct Cm;

impl runtime::Service for Cm {
    const NAME: &'static str = "cm";
    type Config = Config;
    const POSTGRES: bool = true;

    fn subjects() -> Subjects {
        Subjects::new()
            .serves(EP_TOKEN_REQUEST)
            .answers(EP_TOKEN_RESPONSE)
            .serves(EP_TOKEN_STATUS_TRANSITION_REQUEST)
            .answers(EP_TOKEN_STATUS_TRANSITION_RESPONSE)
            .serves(CREATE_REQUEST)
            .answers(CREATE_RESPONSE)
            .serves(DELETE_REQUEST)
            .answers(DELETE_RESPONSE)
            .emits(EP_TOKEN_REVOKED)
            // Its own come back to it.
            .hears(EP_TOKEN_REVOKED)
            .hears(elce::UNREGISTERED)
            .hears(tle::UNREGISTERED)
            .asks(instance::EPR, epr::GET_REQUEST)
    }

    fn check(config: &Config) -> Vec<(&'static str, String)> {
        config.faults()
    }

    async fn start(config: Config, context: Context) -> anyhow::Result<()> {
        let key = TokenKey::parse(&config.token_key).context("cm.token_key")?;
        let store = Store::new(context.postgres(&MIGRATOR).await?, config.tokens_per_endpoint_max);
        let endpoints = Endpoints::new(context.clone(), config.endpoint_timeout());
        let metrics = Metrics::new();
        let announcer = Announcer::start(&context, &store, metrics.clone()).await?;
        let registry = Arc::new(Registry::new(announcer, store, key, metrics));
        let provide = Provide {
            context: &context,
            registry: &registry,
            concurrent_max: config.concurrent_requests_max,
        };
        provide.by(EP_TOKEN_REQUEST, "validate tokens", handler::validate).await?;
        provide.by(EP_TOKEN_STATUS_TRANSITION_REQUEST, "move tokens", handler::transit).await?;
        provide.by(CREATE_REQUEST, "make tokens", handler::create).await?;
        provide.by(DELETE_REQUEST, "delete tokens of endpoints", handler::delete).await?;
        removal::start(&context, &registry).await?;
        context.mount(rest::router(Api { registry, endpoints }));
        Ok(())
    }
}

/// What all providers of the service have in common.
struct Provide<'a> {
    context: &'a Context,
    registry: &'a Arc<Registry>,
    concurrent_max: usize,
}

impl Provide<'_> {
    async fn by<Q, R, H, F>(&self, message: Message, name: &'static str, handler: H) -> anyhow::Result<()>
    where
        Q: Record + Envelope + Send + 'static,
        R: Record + Send,
        H: Fn(Arc<Registry>, Q) -> F + Send + Sync + 'static,
        F: Future<Output = R> + Send + 'static,
    {
        let subject = message.service(self.context.instance());
        let provider = provider::Provider { subject, name, concurrent_max: self.concurrent_max };
        let registry = self.registry.clone();
        provider::serve(self.context, provider, move |request| handler(registry.clone(), request)).await
    }
}
