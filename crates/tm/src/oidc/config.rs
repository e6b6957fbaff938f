//! One entry of `tm.oidc`.

use std::collections::BTreeMap;
use std::time::Duration;

use ids::TenantId;
use rest::Role;
use serde::Deserialize;

/// An issuer whose tokens are accepted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OidcConfig {
    /// The `iss` of its tokens, to the letter.
    pub issuer: String,
    /// Where its keys are; absent: what its discovery document (`<issuer>/.well-known/openid-configuration`) names.
    pub jwks_url: Option<String>,
    /// What the `aud` of its tokens must hold.
    pub audience: String,
    /// The tenant of all its users.
    pub tenant: Option<TenantId>,
    /// The claim that names the tenant of each user, as a path with dots.
    pub tenant_claim: Option<String>,
    /// The tenants that `tenant_claim` may name; empty: any but the platform's own, which must be named.
    #[serde(default)]
    pub tenants: Vec<TenantId>,
    /// The claim that holds the role or roles, as a path with dots, for example `realm_access.roles`.
    pub role_claim: String,
    /// Which role here each of its roles gives; the highest counts. What is not named gives none.
    pub roles: BTreeMap<String, Role>,
    /// Whether its keys may be fetched without TLS: for tests only, as whoever is on the way can then make tokens.
    #[serde(default)]
    pub allow_http: bool,
    /// How often its keys are fetched at most when a token names an unknown one, in milliseconds.
    #[serde(default = "refetch_ms")]
    pub refetch_ms: u64,
}

fn refetch_ms() -> u64 {
    30_000
}

impl OidcConfig {
    /// Faults that the types cannot express.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut fault = |text: &str| faults.push(format!("of issuer {}: {text}", self.issuer));
        for (key, text) in
            [("issuer", &self.issuer), ("audience", &self.audience), ("role_claim", &self.role_claim)]
        {
            if text.is_empty() {
                fault(&format!("{key} must not be empty"));
            }
        }
        if self.tenant.is_some() == self.tenant_claim.is_some() {
            fault("set either tenant or tenant_claim");
        }
        if self.tenant_claim.is_none() && !self.tenants.is_empty() {
            fault("tenants belongs to tenant_claim");
        }
        let urls = [self.jwks_url.as_deref(), self.jwks_url.is_none().then_some(self.issuer.as_str())];
        for url in urls.into_iter().flatten() {
            if !self.may_fetch(url) {
                fault(&format!("{url} is not an https:// URL"));
            }
        }
        if self.refetch_ms > 3_600_000 {
            fault("refetch_ms must be at most 3600000");
        }
        faults
    }

    /// Whether a claim may name this tenant.
    pub(super) fn lets_claim(&self, tenant: &str, platform_tenant: &TenantId) -> bool {
        if self.tenants.is_empty() {
            return tenant != platform_tenant.as_str();
        }
        self.tenants.iter().any(|allowed| allowed.as_str() == tenant)
    }

    /// Whether keys may be fetched from there.
    pub(crate) fn may_fetch(&self, url: &str) -> bool {
        url.starts_with("https://") || (self.allow_http && url.starts_with("http://"))
    }

    pub(crate) fn refetch_every(&self) -> Duration {
        Duration::from_millis(self.refetch_ms)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn config(text: &str) -> OidcConfig {
        let roles =
            r#""role_claim": "realm_access.roles", "roles": {"bandar-admin": "admin", "watcher": "viewer"}"#;
        let common = format!(r#""issuer": "https://id.example/realms/acme", "audience": "bandar", {roles}"#);
        serde_json::from_str(&format!("{{{common}, {text}}}")).unwrap()
    }

    #[test]
    fn keys_are_fetched_over_tls_unless_allowed() {
        assert!(config(r#""tenant": "acme""#).faults().is_empty());
        let plain = config(r#""tenant": "acme", "jwks_url": "http://id.example/keys""#);
        assert!(plain.faults()[0].contains("https://"), "{:?}", plain.faults());
        assert!(OidcConfig { allow_http: true, ..plain }.faults().is_empty());
    }

    #[test]
    fn the_tenant_is_fixed_or_claimed() {
        assert_eq!(config(r#""refetch_ms": 1"#).faults().len(), 1);
        assert_eq!(config(r#""tenant": "acme", "tenant_claim": "tenant""#).faults().len(), 1);
        assert!(config(r#""tenant_claim": "tenant""#).faults().is_empty());
    }
}
