//! Secrets: how they are made, encrypted, and told by a digest.

use std::fmt;

use aes_gcm::aead::{Aead as _, Generate as _, Payload};
use aes_gcm::{Aes256Gcm, KeyInit as _, Nonce};
use rand::distr::{Alphanumeric, SampleString as _};
use runtime::{InvalidSecretKey, secret_key};
use sha2::{Digest as _, Sha256};

/// The nonce of AES-GCM.
const NONCE_BYTES: usize = 12;

/// A SHA-256 digest.
pub(crate) type Sha256Digest = [u8; 32];

/// The digest by which a secret of many random bits is found and compared.
pub(crate) fn digest(secret: &str) -> Sha256Digest {
    Sha256::digest(secret.as_bytes()).into()
}

/// The digest of two texts, of which the first holds no NUL.
pub(crate) fn digest_pair(first: &str, second: &str) -> Sha256Digest {
    let mut hash = Sha256::new();
    hash.update(first.as_bytes());
    hash.update([0]);
    hash.update(second.as_bytes());
    hash.finalize().into()
}

/// Random letters and digits, 5.95 bits each.
pub(crate) fn random_text(chars: usize) -> String {
    Alphanumeric.sample_string(&mut rand::rng(), chars)
}

/// The key under which other keys are encrypted.
#[derive(Clone)]
pub(crate) struct KeyEncryptionKey(Aes256Gcm);

/// Why a text is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidKey {
    #[error(transparent)]
    Invalid(#[from] InvalidSecretKey),
    #[error("has {0} bytes, but AES-256 needs 32: use what `openssl rand -hex 32` makes")]
    Long(usize),
}

/// What was encrypted cannot be decrypted, or not be encrypted at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a signing key cannot be decrypted: tm.key_encryption_key is not the one under which it was encrypted"
)]
pub(crate) struct SealError;

impl KeyEncryptionKey {
    /// Reads a key of exactly 32 bytes, see [`secret_key`].
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidKey> {
        let key = secret_key(text)?;
        Aes256Gcm::new_from_slice(&key).map(Self).map_err(|_| InvalidKey::Long(key.len()))
    }

    /// Encrypts a secret; `about` is not encrypted, but without it there is no decryption.
    pub(crate) fn seal(&self, secret: &[u8], about: &str) -> Result<Vec<u8>, SealError> {
        let nonce = Nonce::generate();
        let payload = Payload { msg: secret, aad: about.as_bytes() };
        let sealed = self.0.encrypt(&nonce, payload).map_err(|_| SealError)?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    /// Decrypts what [`Self::seal`] made.
    pub(crate) fn open(&self, sealed: &[u8], about: &str) -> Result<Vec<u8>, SealError> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_BYTES).ok_or(SealError)?;
        let nonce = Nonce::try_from(nonce).map_err(|_| SealError)?;
        let payload = Payload { msg: sealed, aad: about.as_bytes() };
        self.0.decrypt(&nonce, payload).map_err(|_| SealError)
    }
}

impl fmt::Debug for KeyEncryptionKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("KeyEncryptionKey(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: &str) -> KeyEncryptionKey {
        KeyEncryptionKey::parse(&byte.repeat(32)).unwrap()
    }

    #[test]
    fn only_the_same_key_and_purpose_decrypt() {
        let sealed = key("0a").seal(b"secret", "kid-1").unwrap();
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        assert_eq!(key("0A").open(&sealed, "kid-1").unwrap(), b"secret");
        assert_eq!(key("0b").open(&sealed, "kid-1"), Err(SealError));
        assert_eq!(key("0a").open(&sealed, "kid-2"), Err(SealError));
        assert_eq!(key("0a").open(&sealed[..5], "kid-1"), Err(SealError));
        assert_ne!(key("0a").seal(b"secret", "kid-1").unwrap(), sealed);
    }

    #[test]
    fn bad_keys_are_refused_with_the_fix() {
        let refused = |text: &str| KeyEncryptionKey::parse(text).unwrap_err();
        assert_eq!(refused(" "), InvalidSecretKey::Missing.into());
        assert_eq!(refused("00"), InvalidSecretKey::Short(1).into());
        assert_eq!(refused(&"00".repeat(33)), InvalidKey::Long(33));
        assert!(InvalidKey::Long(33).to_string().contains("openssl rand -hex 32"));
        assert_eq!(format!("{:?}", key("00")), "KeyEncryptionKey(***)");
    }

    #[test]
    fn two_texts_are_kept_apart() {
        assert_ne!(digest_pair("a", "bc"), digest_pair("ab", "c"));
        assert_eq!(digest_pair("a", "b"), digest("a\0b"));
    }
}
