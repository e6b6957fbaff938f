//! The keys that sign and verify the service's own tokens.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{DecodingKey, EncodingKey};
use parking_lot::Mutex;

use crate::error::Error;
use crate::secret::{KeyEncryptionKey, random_text};
use crate::store::{NewSigningKey, SigningKeyRow, Store};
use crate::token::{self, ALGORITHM, Claims};

const KID_CHARS: usize = 16;
/// After a rotation, old keys verify for so many seconds longer than the longest life of a token: other replicas sign
/// with them until they know of the new one, and clocks differ.
const RETIREMENT_MARGIN_S: u32 = 600;
/// A token with an unknown key makes the keys be read again at most this often.
const REREAD_EVERY: Duration = Duration::from_secs(1);

/// The keys, as they were when last read.
pub(crate) struct KeyRing {
    store: Store,
    key_encryption_key: KeyEncryptionKey,
    issuer: String,
    keys: ArcSwap<Keys>,
    read_at: Mutex<Instant>,
}

struct Keys {
    signing: Option<(String, EncodingKey)>,
    verifying: HashMap<String, Verifying>,
    /// The public keys, for those who check tokens themselves.
    public: JwkSet,
}

struct Verifying {
    key: DecodingKey,
    retires_at: Option<DateTime<Utc>>,
}

/// Why a token is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Untrusted {
    #[error("its key is unknown or retired")]
    Key,
    #[error("{0}")]
    Token(#[from] jsonwebtoken::errors::Error),
}

impl KeyRing {
    /// Reads the keys; makes the first one.
    pub(crate) async fn open(
        store: Store,
        key_encryption_key: KeyEncryptionKey,
        issuer: String,
    ) -> Result<Self, Error> {
        let empty = Keys { signing: None, verifying: HashMap::new(), public: JwkSet { keys: Vec::new() } };
        let keys = ArcSwap::from_pointee(empty);
        let ring = Self { store, key_encryption_key, issuer, keys, read_at: Mutex::new(Instant::now()) };
        ring.reread().await?;
        if ring.keys.load().signing.is_none() {
            ring.store.add_first_signing_key(&ring.new_key()?).await?;
            ring.reread().await?;
        }
        Ok(ring)
    }

    /// Makes a key that signs from now on; the others verify what they have signed.
    pub(crate) async fn rotate(&self, token_ttl_s: u32) -> Result<(), Error> {
        let verify_s = f64::from(token_ttl_s) + f64::from(RETIREMENT_MARGIN_S);
        self.store.rotate_signing_key(&self.new_key()?, verify_s).await?;
        self.reread().await
    }

    /// Reads the keys from the table.
    pub(crate) async fn reread(&self) -> Result<(), Error> {
        *self.read_at.lock() = Instant::now();
        let keys = self.read(self.store.signing_keys().await?)?;
        self.keys.store(keys.into());
        Ok(())
    }

    fn read(&self, rows: Vec<SigningKeyRow>) -> Result<Keys, Error> {
        let mut keys = Keys { signing: None, verifying: HashMap::new(), public: JwkSet { keys: Vec::new() } };
        for row in rows {
            let key = DecodingKey::from_jwk(&row.public_jwk)
                .map_err(|_| Error::Stored("a public signing key is malformed"))?;
            // The newest comes first.
            if row.retires_at.is_none() && keys.signing.is_none() {
                let private = self.key_encryption_key.open(&row.private_key, &row.kid)?;
                keys.signing = Some((row.kid.clone(), EncodingKey::from_ec_der(&private)));
            }
            keys.verifying.insert(row.kid, Verifying { key, retires_at: row.retires_at });
            keys.public.keys.push(row.public_jwk.0);
        }
        Ok(keys)
    }

    fn new_key(&self) -> Result<NewSigningKey, Error> {
        let failed = |_| Error::Stored("a signing key could not be made");
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let kid = random_text(KID_CHARS);
        let private = pair.serialize_der();
        let mut public_jwk =
            Jwk::from_encoding_key(&EncodingKey::from_ec_der(&private), ALGORITHM).map_err(Error::Sign)?;
        public_jwk.common.key_id = Some(kid.clone());
        public_jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        let private_key = self.key_encryption_key.seal(&private, &kid)?;
        Ok(NewSigningKey { kid, algorithm: "ES256", public_jwk, private_key })
    }

    /// The `iss` of the tokens.
    pub(crate) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The public keys (RFC 7517).
    pub(crate) fn public(&self) -> JwkSet {
        self.keys.load().public.clone()
    }

    /// Signs a token.
    pub(crate) fn sign(&self, claims: &Claims) -> Result<String, Error> {
        let keys = self.keys.load();
        let (kid, key) = keys.signing.as_ref().ok_or(Error::Stored("there is no signing key"))?;
        token::sign(claims, kid, key).map_err(Error::Sign)
    }

    /// Checks a token that names its key. An unknown key may be one that another replica has made.
    pub(crate) async fn verify(&self, token: &str, kid: &str) -> Result<Claims, Untrusted> {
        let is_known = self.keys.load().verifying.contains_key(kid);
        let is_due = self.read_at.lock().elapsed() >= REREAD_EVERY;
        if !is_known
            && is_due
            && let Err(error) = self.reread().await
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "signing keys cannot be read");
        }
        let keys = self.keys.load();
        let verifying = keys.verifying.get(kid).ok_or(Untrusted::Key)?;
        if verifying.retires_at.is_some_and(|retires_at| retires_at <= Utc::now()) {
            return Err(Untrusted::Key);
        }
        Ok(token::verify(token, &self.issuer, &verifying.key)?)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A key to sign with and the one to verify with.
    pub(crate) fn key_pair() -> (EncodingKey, DecodingKey) {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let encoding = EncodingKey::from_ec_der(&pair.serialize_der());
        let public = Jwk::from_encoding_key(&encoding, ALGORITHM).unwrap();
        (encoding, DecodingKey::from_jwk(&public).unwrap())
    }
}
