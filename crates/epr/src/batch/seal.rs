//! Tokens in orders are encrypted: whoever has the database alone cannot use them.

use std::fmt::Write as _;

use aes_gcm::aead::{Aead as _, Generate as _, Payload};
use aes_gcm::{Aes256Gcm, KeyInit as _, Nonce};
use ids::EndpointToken;
use runtime::{InvalidSecretKey, secret_key};
use sha2::{Digest as _, Sha256};

use crate::store::ItemKey;

const KEY_BYTES: usize = 32;
/// The nonce of AES-GCM.
const NONCE_BYTES: usize = 12;

/// A token that cannot be encrypted or decrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the token was encrypted under another epr.batch_key")]
pub(crate) struct SealError;

/// Encrypts and decrypts tokens. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Sealer {
    cipher: Aes256Gcm,
    key_id: String,
}

impl Sealer {
    /// Reads a key; empty: makes one, which ends with the process.
    pub(crate) fn new(text: &str) -> Result<Self, InvalidSecretKey> {
        let secret = match secret_key(text) {
            Err(InvalidSecretKey::Missing) => rand::random::<[u8; KEY_BYTES]>().to_vec(),
            secret => secret?,
        };
        // A secret of any length makes a key of the right one.
        let key = Sha256::digest(secret);
        let mut key_id = String::new();
        for byte in &Sha256::digest(key)[..8] {
            // Writing to a string does not fail.
            let _ = write!(key_id, "{byte:02x}");
        }
        Ok(Self { cipher: Aes256Gcm::new(&key), key_id })
    }

    /// Names the key without telling it.
    pub(crate) fn key_id(&self) -> &str {
        &self.key_id
    }

    /// Encrypts the token of an endpoint of an order; it decrypts for that alone.
    pub(crate) fn seal(&self, key: ItemKey, token: &str) -> Result<Vec<u8>, SealError> {
        let nonce = Nonce::generate();
        let payload = Payload { msg: token.as_bytes(), aad: &about(key) };
        let sealed = self.cipher.encrypt(&nonce, payload).map_err(|_| SealError)?;
        Ok([&nonce[..], &sealed[..]].concat())
    }

    pub(crate) fn open(&self, key: ItemKey, sealed: &[u8]) -> Result<EndpointToken, SealError> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_BYTES).ok_or(SealError)?;
        let nonce = Nonce::try_from(nonce).map_err(|_| SealError)?;
        let payload = Payload { msg: sealed, aad: &about(key) };
        let token = self.cipher.decrypt(&nonce, payload).map_err(|_| SealError)?;
        let token = String::from_utf8(token).map_err(|_| SealError)?;
        EndpointToken::parse(&token).map_err(|_| SealError)
    }
}

fn about(key: ItemKey) -> Vec<u8> {
    [&key.task_id.as_bytes()[..], &key.position.to_be_bytes()[..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn a_token_opens_for_its_item_under_its_key_only() {
        let sealer = Sealer::new(&"0f".repeat(32)).unwrap();
        let key = ItemKey { task_id: Uuid::new_v4(), position: 1 };
        let sealed = sealer.seal(key, "secret").unwrap();
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        assert_eq!(sealer.open(key, &sealed).unwrap().as_str(), "secret");
        assert_eq!(sealer.open(ItemKey { position: 2, ..key }, &sealed).unwrap_err(), SealError);
        assert_eq!(sealer.open(key, &sealed[..5]).unwrap_err(), SealError);
        let other = Sealer::new("").unwrap();
        assert_eq!(other.open(key, &sealed).unwrap_err(), SealError);
        assert_ne!(other.key_id(), sealer.key_id());
        assert_eq!(sealer.key_id(), Sealer::new(&format!(" {}", "0f".repeat(32))).unwrap().key_id());
    }

    #[test]
    fn a_key_that_can_be_guessed_is_none() {
        for bad in ["x", &"é".repeat(32), &"00".repeat(31)] {
            assert!(Sealer::new(bad).is_err(), "{bad}");
        }
    }
}
