//! The tenant manager: tenants, users, roles, API keys, login.
//!
//! It answers every process of the platform whose credential a REST call shows (`auth`), gives tokens for passwords and
//! API keys, verifies tokens of external OpenID Connect issuers, and manages who may do what (`/api/v2`,
//! `/tm/api/v1`, `/auth/realms`). See the README for tables, keys and limits.

mod announcer;
mod api_key;
mod authenticator;
mod bootstrap;
mod config;
mod domain;
mod error;
mod fresh;
mod handler;
mod housekeeping;
mod keyring;
mod login;
mod metrics;
mod oidc;
mod password;
mod principals;
mod rest;
mod secret;
mod store;
mod token;

use std::sync::Arc;

use anyhow::Context as _;
use ism::auth::{ACCESS_CHANGED, AUTHENTICATE_REQUEST, AUTHENTICATE_RESPONSE};
use ism::tle;
use runtime::{Context, Subjects};

pub use crate::config::{Argon2Config, Bootstrap, Config};
pub use crate::oidc::OidcConfig;
pub use crate::rest::ROUTES;

use crate::announcer::Announcer;
use crate::authenticator::Authenticator;
use crate::keyring::KeyRing;
use crate::login::Logins;
use crate::metrics::Metrics;
use crate::oidc::Issuers;
use crate::password::Passwords;
use crate::principals::Principals;
use crate::rest::Api;
use crate::secret::KeyEncryptionKey;
use crate::store::{MIGRATOR, Store};

/// The service.
pub struct Tm;

impl runtime::Service for Tm {
    const NAME: &'static str = "tm";
    type Config = Config;
    const POSTGRES: bool = true;

    fn subjects() -> Subjects {
        Subjects::new()
            .serves(AUTHENTICATE_REQUEST)
            .answers(AUTHENTICATE_RESPONSE)
            .emits(ACCESS_CHANGED)
            .hears(ACCESS_CHANGED)
            .emits(tle::UPDATED)
            .emits(tle::UNREGISTERED)
    }

    fn check(config: &Config) -> Vec<(&'static str, String)> {
        config.faults()
    }

    async fn start(config: Config, context: Context) -> anyhow::Result<()> {
        let key = KeyEncryptionKey::parse(&config.key_encryption_key).context("tm.key_encryption_key")?;
        let metrics = Metrics::new();
        let store = Store::new(context.postgres(&MIGRATOR).await?, &config);
        let passwords = Passwords::new(&config).await?;
        bootstrap::run(&config.bootstrap, &store, &passwords).await.context("making the first tenant")?;
        let keyring = Arc::new(KeyRing::open(store.clone(), key, config.issuer.clone()).await?);
        let principals = Arc::new(Principals::new(store.clone()));
        let announcer =
            Announcer::start(&context, store.clone(), principals.clone(), keyring.clone()).await?;

        let authenticator = Arc::new(Authenticator {
            store: store.clone(),
            keyring: keyring.clone(),
            principals,
            issuers: Issuers::new(config.oidc.clone(), context.platform_tenant().clone(), &metrics)?,
            metrics: metrics.clone(),
        });
        let provider = provider::Provider {
            subject: AUTHENTICATE_REQUEST.service(context.instance()),
            name: "look into credentials",
            concurrent_max: config.concurrent_requests_max,
        };
        provider::serve(&context, provider, move |request| handler::answer(authenticator.clone(), request))
            .await?;

        let logins = Arc::new(Logins::new(&config, store.clone(), passwords, keyring.clone(), metrics));
        housekeeping::start(&context, store.clone(), keyring.clone(), announcer.clone());
        context.mount(rest::router(Api {
            store,
            logins,
            keyring,
            announcer,
            token_ttl_s: config.token_ttl_s,
            password_chars_min: config.password_chars_min,
        }));
        Ok(())
    }
}
