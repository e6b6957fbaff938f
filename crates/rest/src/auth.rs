//! Credentials of a call, and what they give access to.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use axum::http::{HeaderMap, header};
use ids::{CorrelationId, TenantId};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::permission::Role;
use crate::{Access, Error, Verify};

/// Kaa's header for an API key; it wins over `Authorization`.
const API_KEY_HEADER: &str = "x-iamcore-api-key";

/// The longest credential that is looked at, in bytes; signed tokens are the longest.
const CREDENTIAL_BYTES_MAX: usize = 8 * 1_024;

/// Who may call the REST interfaces: those whom the tenant manager knows, and the API keys named here, which speak for
/// administrators of their tenant whatever the tenant manager says.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// Whether users, their tokens and their API keys are looked up in the tenant manager, `tm`. Default true.
    pub tenant_manager: bool,
    /// The tenant whose administrators manage all tenants. Default `bandar`.
    pub platform_tenant: TenantId,
    /// An API key in the clear, at least 16 characters. A secret: debug output does not show it.
    pub api_key: String,
    /// The tenant that `api_key` speaks for.
    pub tenant: Option<TenantId>,
    /// Further keys, as digests.
    pub keys: Vec<ApiKey>,
}

/// An API key of which only the digest is known here.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    /// The tenant that the key speaks for.
    pub tenant: TenantId,
    /// SHA-256 of the key: 64 hexadecimal digits, as of `printf %s "$KEY" | sha256sum`.
    pub api_key_sha256: KeyDigest,
}

/// The SHA-256 digest of an API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    fn of(key: &[u8]) -> Self {
        Self(Sha256::digest(key).into())
    }
}

impl TryFrom<String> for KeyDigest {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut digest = [0; 32];
        let digits = text.as_bytes();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err("an api_key_sha256 must be 64 hexadecimal digits");
        }
        for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| "not ASCII")?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| "not hexadecimal")?;
        }
        Ok(Self(digest))
    }
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            tenant_manager: true,
            platform_tenant: platform_tenant(),
            api_key: String::new(),
            tenant: None,
            keys: Vec::new(),
        }
    }
}

#[expect(clippy::expect_used, reason = "a constant that the tests read")]
fn platform_tenant() -> TenantId {
    TenantId::parse("bandar").expect("a tenant id")
}

impl AuthConfig {
    pub(crate) fn check(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if !self.api_key.is_empty() && self.api_key.len() < 16 {
            faults.push("http.auth.api_key can be guessed: make it 16 characters or longer".to_owned());
        }
        if self.api_key.is_empty() != self.tenant.is_none() {
            faults.push(
                "http.auth.api_key and http.auth.tenant belong together: set both or neither".to_owned(),
            );
        }
        faults
    }
}

impl fmt::Debug for AuthConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("AuthConfig")
            .field("api_key", &if self.api_key.is_empty() { "" } else { "***" })
            .field("tenant", &self.tenant)
            .field("tenant_manager", &self.tenant_manager)
            .field("platform_tenant", &self.platform_tenant)
            .field("keys", &self.keys)
            .finish()
    }
}

/// Finds out what the credentials of a request give access to. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Authenticator(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    keys: Vec<(KeyDigest, Arc<Access>)>,
    platform_tenant: TenantId,
    tenant_manager: bool,
    verifier: OnceLock<Arc<dyn Verify>>,
}

impl Authenticator {
    /// Accepts the keys of the configuration.
    #[must_use]
    pub fn new(config: &AuthConfig) -> Self {
        let clear = config.tenant.as_ref().filter(|_| !config.api_key.is_empty());
        let clear = clear.map(|tenant| (KeyDigest::of(config.api_key.as_bytes()), configured(tenant)));
        let keys = config.keys.iter().map(|key| (key.api_key_sha256, configured(&key.tenant)));
        Self(Arc::new(Inner {
            keys: keys.chain(clear).collect(),
            platform_tenant: config.platform_tenant.clone(),
            tenant_manager: config.tenant_manager,
            verifier: OnceLock::new(),
        }))
    }

    /// Whether credentials that the configuration does not name may be known elsewhere.
    #[must_use]
    pub fn wants_verifier(&self) -> bool {
        self.0.tenant_manager
    }

    /// Names the one who knows them. Only the first call counts.
    pub fn set_verifier(&self, verifier: Arc<dyn Verify>) {
        drop(self.0.verifier.set(verifier));
    }

    /// The tenant whose administrators manage all tenants.
    #[must_use]
    pub fn platform_tenant(&self) -> &TenantId {
        &self.0.platform_tenant
    }

    /// What the credential in the headers gives access to: that of `x-iamcore-api-key`, else of `Authorization: Bearer`.
    ///
    /// # Errors
    /// 401 when there is none, or none that is known; 503 when that cannot be told now. How long it takes tells nothing about the keys
    /// of the configuration.
    pub async fn authenticate(
        &self,
        headers: &HeaderMap,
        correlation_id: &CorrelationId,
    ) -> Result<Arc<Access>, Error> {
        let Some(credential) = presented(headers) else {
            return Err(Error::unauthorized(
                "the request has no credentials: send a token or an API key as `Authorization: Bearer <it>`, \
                 or an API key as `x-iamcore-api-key: <key>`",
            ));
        };
        let digest = KeyDigest::of(credential);
        let mut access = None;
        for (known, reached) in &self.0.keys {
            if bool::from(known.0.ct_eq(&digest.0)) {
                access = Some(reached.clone());
            }
        }
        if let Some(access) = access {
            return Ok(access);
        }
        let credential = std::str::from_utf8(credential).ok();
        let credential = credential.filter(|text| !text.is_empty() && text.len() <= CREDENTIAL_BYTES_MAX);
        match (credential, self.0.verifier.get()) {
            (Some(credential), Some(verifier)) => verifier.verify(credential, correlation_id).await,
            (Some(_), None) if self.0.tenant_manager => {
                Err(Error::unavailable("the credentials cannot be checked yet: try again in a moment"))
            }
            _ => Err(Error::unauthorized("the credentials are not known here: check the token or API key")),
        }
    }
}

/// What a key out of the configuration gives access to.
fn configured(tenant: &TenantId) -> Arc<Access> {
    Arc::new(Access {
        tenant: tenant.clone(),
        subject: "configuration".into(),
        name: "the API key of the configuration".into(),
        role: Some(Role::Admin),
        grants: BTreeMap::new(),
        expires_at: None,
    })
}

/// The credential that the request shows.
fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    if let Some(key) = headers.get(API_KEY_HEADER) {
        return Some(key.as_bytes().trim_ascii());
    }
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, key) = value.split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef";

    fn tenant(name: &str) -> TenantId {
        TenantId::parse(name).unwrap()
    }

    fn authenticator() -> Authenticator {
        // The digest of "another-key-of-16".
        let digest = KeyDigest::of(b"another-key-of-16");
        let keys = vec![ApiKey { tenant: tenant("b"), api_key_sha256: digest }];
        Authenticator::new(&AuthConfig {
            api_key: KEY.to_owned(),
            tenant: Some(tenant("a")),
            keys,
            ..AuthConfig::default()
        })
    }

    fn authenticate(headers: &[(&'static str, &str)]) -> Option<String> {
        let headers = headers.iter().map(|(name, value)| {
            (header::HeaderName::from_static(name), header::HeaderValue::from_str(value).unwrap())
        });
        ask(&authenticator(), &headers.collect()).ok().map(|access| access.tenant.to_string())
    }

    fn ask(authenticator: &Authenticator, headers: &HeaderMap) -> Result<Arc<Access>, Error> {
        let id = CorrelationId::parse("c").unwrap();
        futures::executor::block_on(authenticator.authenticate(headers, &id))
    }

    #[derive(Debug)]
    struct Known(&'static str, Arc<Access>);

    impl Verify for Known {
        fn verify<'a>(&'a self, credential: &'a str, _: &'a CorrelationId) -> crate::Verifying<'a> {
            let known = credential == self.0;
            let access = known.then(|| self.1.clone()).ok_or_else(|| Error::unauthorized("unknown"));
            Box::pin(async { access })
        }
    }

    #[test]
    fn what_the_configuration_does_not_name_is_asked_for_elsewhere() {
        let authenticator = authenticator();
        let headers = |key: &str| {
            HeaderMap::from_iter([(
                header::HeaderName::from_static(API_KEY_HEADER),
                header::HeaderValue::from_str(key).unwrap(),
            )])
        };
        assert_eq!(ask(&authenticator, &headers("users-key")).unwrap_err().status(), 503);
        authenticator.set_verifier(Arc::new(Known("users-key", configured(&tenant("c")))));
        assert_eq!(ask(&authenticator, &headers("users-key")).unwrap().tenant, tenant("c"));
        assert_eq!(ask(&authenticator, &headers(KEY)).unwrap().tenant, tenant("a"));
        assert_eq!(ask(&authenticator, &headers("other")).unwrap_err().status(), 401);
        assert_eq!(ask(&authenticator, &headers(&"x".repeat(9_000))).unwrap_err().status(), 401);
    }

    #[test]
    fn a_known_key_is_found_in_either_header() {
        let bearer = format!("bEARER {KEY}");
        assert_eq!(authenticate(&[("authorization", &bearer)]).as_deref(), Some("a"));
        assert_eq!(authenticate(&[("x-iamcore-api-key", "another-key-of-16")]).as_deref(), Some("b"));
    }

    #[test]
    fn the_api_key_header_wins_even_when_it_is_wrong() {
        let bearer = format!("Bearer {KEY}");
        assert_eq!(authenticate(&[("authorization", &bearer), ("x-iamcore-api-key", "wrong")]), None);
    }

    #[test]
    fn anything_else_is_refused() {
        for value in ["", "Bearer", "Bearer ", "Basic 0123456789abcdef", "Bearerx0123456789abcdef", KEY] {
            assert_eq!(authenticate(&[("authorization", value)]), None, "{value:?}");
        }
        assert_eq!(authenticate(&[]), None);
        assert!(ask(&Authenticator::new(&AuthConfig::default()), &HeaderMap::new()).is_err());
    }

    #[test]
    fn digests_are_read_from_hexadecimal_digits() {
        let hex = "F".repeat(62) + "01";
        let digest = KeyDigest::try_from(hex).unwrap();
        assert_eq!((digest.0[0], digest.0[31]), (255, 1));
        assert!(KeyDigest::try_from("0".repeat(63)).is_err());
        assert!(KeyDigest::try_from("g".repeat(64)).is_err());
        assert!(KeyDigest::try_from("+1".repeat(32)).is_err());
    }

    #[test]
    fn debug_output_hides_the_key() {
        let config = AuthConfig { api_key: KEY.to_owned(), ..AuthConfig::default() };
        assert!(!format!("{config:?}").contains(KEY));
    }
}
