//! The published keys of one issuer (RFC 7517), fetched when needed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use base64::Engine as _;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use tokio::sync::{Mutex, Semaphore};

use super::fetch::Fetcher;
use super::{NotTaken, OidcConfig};
use crate::metrics::Metrics;

/// Keys of one issuer that are looked at.
const KEYS_MAX: usize = 100;
/// RSA keys in bytes: shorter ones are weak, longer ones slow.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1_024;
/// Keys that are older are fetched again, so that one that the issuer has taken back ends here too.
const AGE_MAX: Duration = Duration::from_secs(600);
/// Tokens with unknown keys that wait while keys are fetched; anybody can make such tokens, and an issuer that hangs must
/// not hold up everybody else.
const WAITING_MAX: usize = 8;

/// Whether tokens of this algorithm are looked at: only signatures that others can check and not make.
pub(super) fn algorithm_allowed(algorithm: Algorithm) -> bool {
    use Algorithm::{ES256, ES384, EdDSA, PS256, RS256, RS384, RS512};
    matches!(algorithm, RS256 | RS384 | RS512 | PS256 | ES256 | ES384 | EdDSA)
}

/// The keys of one issuer.
pub(super) struct Jwks {
    config: OidcConfig,
    fetcher: Arc<Fetcher>,
    metrics: Metrics,
    keys: ArcSwap<Vec<Key>>,
    fetched: Mutex<Fetched>,
    waiting: Semaphore,
}

/// When keys were last fetched, and tried to be.
#[derive(Default)]
struct Fetched {
    tried_at: Option<Instant>,
    done_at: Option<Instant>,
}

struct Key {
    kid: Option<String>,
    /// The algorithm that the issuer says it is for.
    algorithm: Option<KeyAlgorithm>,
    kind: Kind,
    key: Arc<DecodingKey>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rsa,
    P256,
    P384,
    Ed25519,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Jwks {
    pub(super) fn new(config: &OidcConfig, fetcher: Arc<Fetcher>, metrics: Metrics) -> Self {
        Self {
            config: config.clone(),
            fetcher,
            metrics,
            keys: ArcSwap::from_pointee(Vec::new()),
            fetched: Mutex::default(),
            waiting: Semaphore::new(WAITING_MAX),
        }
    }

    /// The key for a token. An unknown one makes the keys be fetched, but not more often than configured.
    pub(super) async fn key(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Arc<DecodingKey>, NotTaken> {
        if let Some(key) = find(&self.keys.load(), kid, algorithm).filter(|_| !self.is_old()) {
            return Ok(key);
        }
        let Ok(_place) = self.waiting.try_acquire() else {
            return find(&self.keys.load(), kid, algorithm).ok_or(NotTaken::Unavailable);
        };
        // One at a time; whoever waited here finds what the one before has fetched.
        let mut fetched = self.fetched.lock().await;
        if let Some(key) = find(&self.keys.load(), kid, algorithm).filter(|_| !fetched.is_old()) {
            return Ok(key);
        }
        if fetched.tried_at.is_none_or(|tried| tried.elapsed() >= self.config.refetch_every()) {
            fetched.tried_at = Some(Instant::now());
            match self.fetch().await {
                Ok(keys) => {
                    self.keys.store(Arc::new(keys));
                    fetched.done_at = Some(Instant::now());
                    self.metrics.keys_fetched(true);
                }
                Err(error) => {
                    self.metrics.keys_fetched(false);
                    let issuer = &self.config.issuer;
                    tracing::warn!(
                        issuer,
                        error = format!("{error:#}"),
                        "an issuer's keys cannot be fetched"
                    );
                }
            }
        }
        // Old keys serve on while the issuer is away.
        let missing = if fetched.done_at.is_some() { NotTaken::Key } else { NotTaken::Unavailable };
        find(&self.keys.load(), kid, algorithm).ok_or(missing)
    }

    fn is_old(&self) -> bool {
        // While somebody fetches, the others take what there is.
        self.fetched.try_lock().is_ok_and(|fetched| fetched.is_old())
    }

    async fn fetch(&self) -> anyhow::Result<Vec<Key>> {
        let url = match &self.config.jwks_url {
            Some(url) => url.clone(),
            None => self.discover().await?,
        };
        let document: Document = serde_json::from_slice(&self.fetcher.get(&url).await?)?;
        Ok(document.keys.into_iter().take(KEYS_MAX).filter_map(read).collect())
    }

    async fn discover(&self) -> anyhow::Result<String> {
        let issuer = self.config.issuer.trim_end_matches('/');
        let document = self.fetcher.get(&format!("{issuer}/.well-known/openid-configuration")).await?;
        let found: Discovery = serde_json::from_slice(&document)?;
        anyhow::ensure!(
            found.issuer == self.config.issuer,
            "it is the document of the issuer {}",
            found.issuer
        );
        anyhow::ensure!(
            self.config.may_fetch(&found.jwks_uri),
            "jwks_uri {} is no https:// URL",
            found.jwks_uri
        );
        Ok(found.jwks_uri)
    }
}

impl Fetched {
    fn is_old(&self) -> bool {
        self.done_at.is_none_or(|done| done.elapsed() >= AGE_MAX)
    }
}

/// The key of that id, or without an id the only one that fits the algorithm.
fn find(keys: &[Key], kid: Option<&str>, algorithm: Algorithm) -> Option<Arc<DecodingKey>> {
    let mut fitting = keys.iter().filter(|key| key.fits(algorithm));
    let found = match kid {
        Some(kid) => fitting.find(|key| key.kid.as_deref() == Some(kid)),
        None => fitting.next().filter(|_| fitting.next().is_none()),
    };
    found.map(|key| key.key.clone())
}

impl Key {
    fn fits(&self, algorithm: Algorithm) -> bool {
        use Algorithm::{ES256, ES384, EdDSA, PS256, RS256, RS384, RS512};
        let kind = match algorithm {
            RS256 | RS384 | RS512 | PS256 => Kind::Rsa,
            ES256 => Kind::P256,
            ES384 => Kind::P384,
            EdDSA => Kind::Ed25519,
            _ => return false,
        };
        self.kind == kind && self.algorithm.is_none_or(|own| own == KeyAlgorithm::from(algorithm))
    }
}

/// A published key, if it is one for signatures that we can check.
fn read(value: serde_json::Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    if jwk.common.public_key_use.as_ref().is_some_and(|purpose| *purpose != PublicKeyUse::Signature) {
        return None;
    }
    let kind = match &jwk.algorithm {
        AlgorithmParameters::RSA(rsa) => RSA_BYTES.contains(&bytes(&rsa.n)?).then_some(Kind::Rsa),
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => Some(Kind::P256),
            EllipticCurve::P384 => Some(Kind::P384),
            _ => None,
        },
        // The length must be right: the library relies on it.
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            (bytes(&key.x)? == 32).then_some(Kind::Ed25519)
        }
        _ => None,
    }?;
    let key = Arc::new(DecodingKey::from_jwk(&jwk).ok()?);
    Some(Key { kid: jwk.common.key_id, algorithm: jwk.common.key_algorithm, kind, key })
}

/// How many bytes a number in a key has.
fn bytes(number: &str) -> Option<usize> {
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(number).ok().map(|bytes| bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn number(length: usize) -> String {
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(vec![0xa5; length])
    }

    fn rsa(kid: &str, bytes: usize) -> serde_json::Value {
        json!({"kty": "RSA", "kid": kid, "n": number(bytes), "e": "AQAB"})
    }

    #[test]
    fn only_keys_for_signatures_are_read() {
        let kind = |value| read(value).map(|key| key.kind);
        assert_eq!(kind(rsa("a", 256)), Some(Kind::Rsa));
        assert_eq!(kind(rsa("weak", 128)), None);
        assert_eq!(kind(rsa("slow", 2_048)), None);
        let edwards = |x: String| json!({"kty": "OKP", "crv": "Ed25519", "x": x});
        assert_eq!(kind(edwards(number(32))), Some(Kind::Ed25519));
        assert_eq!(kind(edwards(number(31))), None);
        let curve = |crv| json!({"kty": "EC", "crv": crv, "x": number(32), "y": number(32)});
        assert_eq!(kind(curve("P-256")), Some(Kind::P256));
        assert_eq!(kind(curve("P-521")), None);
        assert_eq!(kind(json!({"kty": "oct", "k": number(32)})), None);
        let mut encryption = rsa("e", 256);
        encryption["use"] = json!("enc");
        assert_eq!(kind(encryption), None);
        assert_eq!(kind(json!({"kty": "new"})), None);
        assert_eq!(kind(json!("text")), None);
    }

    #[test]
    fn a_key_is_found_by_id_and_kind() {
        let mut bound = rsa("bound", 256);
        bound["alg"] = json!("RS256");
        let keys: Vec<Key> = [rsa("a", 256), bound].into_iter().filter_map(read).collect();
        assert!(find(&keys, Some("a"), Algorithm::RS512).is_some());
        assert!(find(&keys, Some("bound"), Algorithm::RS256).is_some());
        assert!(find(&keys, Some("bound"), Algorithm::PS256).is_none());
        assert!(find(&keys, Some("a"), Algorithm::ES256).is_none());
        assert!(find(&keys, Some("b"), Algorithm::RS256).is_none());
        assert!(find(&keys, None, Algorithm::PS256).is_some());
        assert!(find(&keys, None, Algorithm::RS256).is_none(), "two would fit");
    }

    #[test]
    fn shared_secrets_are_no_signatures() {
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            assert!(!algorithm_allowed(algorithm));
        }
    }
}
