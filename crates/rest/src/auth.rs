//! Who is calling.

use std::fmt;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use ids::{CorrelationId, TenantId};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::Error;
use crate::edge::Policy;

/// Kaa's header for an API key; it wins over `Authorization`.
const API_KEY_HEADER: &str = "x-iamcore-api-key";

/// The API keys that the REST interfaces accept. With none, every call is refused.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
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
            .field("keys", &self.keys)
            .finish()
    }
}

/// Finds the tenant that a request speaks for. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Authenticator(Arc<[ApiKey]>);

impl Authenticator {
    /// Accepts the keys of the configuration.
    #[must_use]
    pub fn new(config: &AuthConfig) -> Self {
        let clear = config.tenant.clone().filter(|_| !config.api_key.is_empty());
        let clear =
            clear.map(|tenant| ApiKey { tenant, api_key_sha256: KeyDigest::of(config.api_key.as_bytes()) });
        Self(config.keys.iter().cloned().chain(clear).collect())
    }

    /// The tenant of the API key in the headers: that of `x-iamcore-api-key`, else of `Authorization: Bearer`.
    ///
    /// # Errors
    /// 401 when there is no key, or none that is known. How long it takes tells nothing about the known keys.
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<TenantId, Error> {
        let Some(key) = presented(headers) else {
            return Err(Error::unauthorized(
                "the request has no API key: send it as `Authorization: Bearer <key>` or `x-iamcore-api-key: <key>`",
            ));
        };
        let digest = KeyDigest::of(key);
        let mut tenant = None;
        for known in &*self.0 {
            if bool::from(known.api_key_sha256.0.ct_eq(&digest.0)) {
                tenant = Some(&known.tenant);
            }
        }
        tenant.cloned().ok_or_else(|| Error::unauthorized("the API key is not known here"))
    }
}

/// The key that the request shows.
fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    if let Some(key) = headers.get(API_KEY_HEADER) {
        return Some(key.as_bytes().trim_ascii());
    }
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, key) = value.split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
}

/// Lets only requests with a known key through.
pub(crate) async fn require_caller(mut request: Request, next: Next) -> Response {
    let authenticated = Policy::of(&request).and_then(|policy| {
        let tenant = policy.authenticator.authenticate(request.headers())?;
        let correlation_id = request.extensions().get().cloned().ok_or_else(Error::not_mounted)?;
        Ok(Caller { tenant, correlation_id })
    });
    match authenticated {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

/// Who is calling, as an argument of a handler. Every query of a handler is scoped to `tenant`.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The tenant that the API key speaks for.
    pub tenant: TenantId,
    /// The id that follows this request through all services.
    pub correlation_id: CorrelationId,
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        parts.extensions.get().cloned().ok_or_else(Error::not_mounted)
    }
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
        Authenticator::new(&AuthConfig { api_key: KEY.to_owned(), tenant: Some(tenant("a")), keys })
    }

    fn authenticate(headers: &[(&'static str, &str)]) -> Option<String> {
        let headers = headers.iter().map(|(name, value)| {
            (header::HeaderName::from_static(name), header::HeaderValue::from_str(value).unwrap())
        });
        authenticator().authenticate(&headers.collect()).ok().map(|tenant| tenant.to_string())
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
        assert!(Authenticator::new(&AuthConfig::default()).authenticate(&HeaderMap::new()).is_err());
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
