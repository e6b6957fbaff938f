//! Client credentials: which clients may connect, by user name and password or by certificate.
//!
//! It answers the gateway over NATS (22/CAP), manages credentials and certificate authorities over REST (`/ccm/api/v1`), and
//! tells all services when credentials have become useless. See the README for tables and keys.

mod announcer;
mod authorities;
mod authority;
mod basic;
mod certificate;
mod config;
mod error;
mod foreign;
mod handler;
mod keys;
mod logins;
mod metrics;
mod password;
mod registry;
pub mod rest;
mod root;
mod state;
mod store;
mod tenants;
mod throttle;
mod uses;
mod verified;
mod x509;

use std::sync::Arc;

pub use config::Config;

use anyhow::Context as _;
use ism::authorities::{AUTHORITIES_CHANGED, AUTHORITIES_REQUEST, AUTHORITIES_RESPONSE};
use ism::cap::{
    BASIC_REQUEST, BASIC_RESPONSE, BASIC_REVOKED, CERTIFICATE_REQUEST, CERTIFICATE_RESPONSE,
    CERTIFICATE_REVOKED,
};
use ism::subject::Message;
use ism::tle::UNREGISTERED;
use ism::{Envelope, Record};
use runtime::{Context, Subjects};

use crate::announcer::Announcer;
use crate::keys::Keys;
use crate::logins::Logins;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::root::Root;
use crate::store::{Limits, MIGRATOR, Store};
use crate::uses::Uses;

/// The service.
pub struct Ccm;

impl runtime::Service for Ccm {
    const NAME: &'static str = "ccm";
    type Config = Config;
    const POSTGRES: bool = true;

    fn subjects() -> Subjects {
        Subjects::new()
            .serves(BASIC_REQUEST)
            .answers(BASIC_RESPONSE)
            .serves(CERTIFICATE_REQUEST)
            .answers(CERTIFICATE_RESPONSE)
            .serves(AUTHORITIES_REQUEST)
            .answers(AUTHORITIES_RESPONSE)
            .emits(BASIC_REVOKED)
            .emits(CERTIFICATE_REVOKED)
            .emits(AUTHORITIES_CHANGED)
            .hears(UNREGISTERED)
    }

    fn check(config: &Config) -> Vec<(&'static str, String)> {
        config.faults()
    }

    async fn start(config: Config, context: Context) -> anyhow::Result<()> {
        let concurrent_max = config.concurrent_requests_max;
        let registry = open(config, &context).await?;
        let announcer = registry.announcer.clone();
        context.spawn("announce what became unusable", announcer.follow());
        let (uses, stopping) = (registry.uses.clone(), context.stopping());
        context.spawn("note when credentials are used", async move { uses.follow(stopping).await });
        let queue = context.instance().as_str();
        let unregistered = context.subscribe(UNREGISTERED.of_any(), Some(queue)).await?;
        let following = tenants::follow(context.clone(), registry.clone(), unregistered);
        context.spawn("remove what tenants leave", following);

        let provide = Provide { context: &context, registry: &registry, concurrent_max };
        provide.by(BASIC_REQUEST, "check passwords", handler::authenticate_basic).await?;
        provide.by(CERTIFICATE_REQUEST, "check certificates", handler::authenticate_certificate).await?;
        provide.by(AUTHORITIES_REQUEST, "tell authorities", handler::authorities).await?;
        context.mount(rest::router(registry));
        Ok(())
    }
}

async fn open(config: Config, context: &Context) -> anyhow::Result<Arc<Registry>> {
    let keys = Keys::parse(&config.key_encryption_key).context("ccm.key_encryption_key")?;
    let limits = Limits {
        basic_credentials: config.basic_credentials_max,
        x509_credentials: config.x509_credentials_max,
        authorities: config.authorities_max,
    };
    let store = Store::new(context.postgres(&MIGRATOR).await?, limits);
    let root = Root::open(&store, &keys).await?;
    let logins = Logins::new(&config, &keys)?;
    let metrics = Arc::new(Metrics::new());
    let announcer = Arc::new(Announcer::new(context.clone(), store.clone(), metrics.clone()));
    let uses = Arc::new(Uses::new(store.clone()));
    Ok(Arc::new(Registry { config, store, keys, root, logins, announcer, uses, metrics }))
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
