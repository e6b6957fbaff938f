//! Tokens of external OpenID Connect issuers, for example Keycloak: verified against the issuer's published keys, and
//! mapped to a tenant and a role as configured.

mod claims;
mod config;
mod fetch;
mod jwks;

use std::sync::Arc;

use ids::TenantId;
use rest::Role;

pub use config::OidcConfig;

use crate::metrics::Metrics;
use crate::oidc::fetch::Fetcher;
use crate::oidc::jwks::{Jwks, algorithm_allowed};
use crate::token::{Unverified, validation};

/// The issuers of the configuration.
pub(crate) struct Issuers {
    all: Vec<Issuer>,
    /// Whose administrators manage all tenants: no claim leads there by itself.
    platform_tenant: TenantId,
}

struct Issuer {
    config: OidcConfig,
    jwks: Jwks,
}

/// What an external token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct External {
    /// The text of the tenant claim, or the tenant of the configuration.
    pub(crate) tenant: String,
    /// Issuer and subject, so that no issuer can speak for another's people.
    pub(crate) subject: String,
    pub(crate) name: String,
    pub(crate) role: Option<Role>,
    /// Unix time in seconds.
    pub(crate) expires_at: i64,
}

/// Why an external token is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotTaken {
    #[error("its issuer is not one of tm.oidc")]
    Issuer,
    #[error("its algorithm is not allowed")]
    Algorithm,
    #[error("its issuer has no such key")]
    Key,
    #[error("the keys of its issuer cannot be fetched")]
    Unavailable,
    #[error("{0}")]
    Token(String),
    #[error("its issuer may not speak for the tenant that it names (tenants)")]
    Tenant,
    #[error("it is no access token")]
    Kind,
    #[error("it has no claim {0}")]
    Claim(String),
}

impl Issuers {
    pub(crate) fn new(
        configs: Vec<OidcConfig>,
        platform_tenant: TenantId,
        metrics: &Metrics,
    ) -> anyhow::Result<Self> {
        if configs.is_empty() {
            return Ok(Self { all: Vec::new(), platform_tenant });
        }
        let https = configs.iter().any(|config| !config.allow_http);
        let fetcher = Arc::new(Fetcher::new(https)?);
        let issuer = |config: OidcConfig| Issuer {
            jwks: Jwks::new(&config, fetcher.clone(), metrics.clone()),
            config,
        };
        Ok(Self { all: configs.into_iter().map(issuer).collect(), platform_tenant })
    }

    /// Checks a token of which only the outside was looked at.
    pub(crate) async fn verify(&self, token: &str, peeked: &Unverified) -> Result<External, NotTaken> {
        let named = peeked.issuer.as_deref();
        let issuer = self.all.iter().find(|issuer| Some(issuer.config.issuer.as_str()) == named);
        let Issuer { config, jwks } = issuer.ok_or(NotTaken::Issuer)?;
        let algorithm = peeked.algorithm.filter(|algorithm| algorithm_allowed(*algorithm));
        let algorithm = algorithm.ok_or(NotTaken::Algorithm)?;
        let key = jwks.key(peeked.kid.as_deref(), algorithm).await?;
        let validation = validation(algorithm, &config.issuer, &config.audience);
        let token = jsonwebtoken::decode::<serde_json::Value>(token, &key, &validation)
            .map_err(|error| NotTaken::Token(error.to_string()))?;
        claims::read(config, &self.platform_tenant, &token.claims)
    }
}
