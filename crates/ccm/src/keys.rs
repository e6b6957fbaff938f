//! The one secret of the service's configuration, and what is derived from it.

use std::fmt;

use aes_gcm::aead::{Aead as _, Payload};
use aes_gcm::{Aes256Gcm, KeyInit as _, Nonce};
use hmac::{Hmac, Mac as _};
use ids::TenantId;
use rand::RngExt as _;
use runtime::{InvalidSecretKey, secret_key};
use sha2::Sha256;
use uuid::Uuid;

const NONCE_BYTES: usize = 12;

/// What each derived key is for. A label never changes its meaning: what it protects would be lost.
const FOR_PRIVATE_KEYS: &[u8] = b"ccm private keys of authorities, AES-256-GCM";
const FOR_GENERATED_PASSWORDS: &[u8] = b"ccm generated passwords, HMAC-SHA256";
const FOR_CHOSEN_PASSWORDS: &[u8] = b"ccm chosen passwords, argon2id secret";
const FOR_REGISTRATION_CODES: &[u8] = b"ccm registration codes, HMAC-SHA256";

/// Keys for all that the service must not keep in the clear.
#[derive(Clone)]
pub(crate) struct Keys {
    cipher: Aes256Gcm,
    generated: Hmac<Sha256>,
    codes: Hmac<Sha256>,
    pepper: [u8; 32],
}

/// A private key cannot be encrypted or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a private key cannot be read: it was encrypted under another ccm.key_encryption_key, or was changed"
)]
pub(crate) struct WrongKey;

impl Keys {
    /// Reads the key, see [`secret_key`].
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidSecretKey> {
        let invalid = |_| InvalidSecretKey::Encoding;
        // HMAC takes keys of any length.
        let root: Hmac<Sha256> = Hmac::new_from_slice(&secret_key(text)?).map_err(invalid)?;
        let derive = |label: &[u8]| -> [u8; 32] {
            let mut mac = root.clone();
            mac.update(label);
            mac.finalize().into_bytes().into()
        };
        let mac = |label| Hmac::new_from_slice(&derive(label)).map_err(invalid);
        Ok(Self {
            cipher: Aes256Gcm::new(&derive(FOR_PRIVATE_KEYS).into()),
            generated: mac(FOR_GENERATED_PASSWORDS)?,
            codes: mac(FOR_REGISTRATION_CODES)?,
            pepper: derive(FOR_CHOSEN_PASSWORDS),
        })
    }

    /// The key of the hashes of generated passwords.
    pub(crate) fn generated_passwords(&self) -> Hmac<Sha256> {
        self.generated.clone()
    }

    /// What is mixed into the hashes of chosen passwords, so that they cannot be guessed from the database alone.
    pub(crate) fn pepper(&self) -> [u8; 32] {
        self.pepper
    }

    /// The code by which a tenant proves in a period of time that it has the key of an authority: 64 hex digits.
    pub(crate) fn registration_code(&self, tenant: &TenantId, period: i64) -> String {
        let mut mac = self.codes.clone();
        mac.update(&period.to_be_bytes());
        mac.update(tenant.as_str().as_bytes());
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Encrypts the private key of an authority, for this authority only.
    pub(crate) fn encrypt(&self, authority: Uuid, private_key: &[u8]) -> Result<Vec<u8>, WrongKey> {
        let nonce: [u8; NONCE_BYTES] = rand::rng().random();
        let payload = Payload { msg: private_key, aad: authority.as_bytes() };
        let encrypted = self.cipher.encrypt(&Nonce::from(nonce), payload).map_err(|_| WrongKey)?;
        Ok([nonce.as_slice(), &encrypted].concat())
    }

    /// The private key of an authority.
    pub(crate) fn decrypt(&self, authority: Uuid, stored: &[u8]) -> Result<Vec<u8>, WrongKey> {
        let (nonce, encrypted) = stored.split_first_chunk::<NONCE_BYTES>().ok_or(WrongKey)?;
        let payload = Payload { msg: encrypted, aad: authority.as_bytes() };
        self.cipher.decrypt(&Nonce::from(*nonce), payload).map_err(|_| WrongKey)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Keys(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    fn code(key: &str, tenant: &str, period: i64) -> String {
        Keys::parse(key).unwrap().registration_code(&TenantId::parse(tenant).unwrap(), period)
    }

    #[test]
    fn what_is_derived_depends_on_the_key_and_what_it_is_for() {
        let expected = code(HEX, "t", 1);
        assert_eq!(expected.len(), 64);
        assert_eq!(code(&format!(" {HEX}\n"), "t", 1), expected);
        assert_ne!(code(&"ff".repeat(32), "t", 1), expected);
        assert_ne!(code(HEX, "u", 1), expected);
        assert_ne!(code(HEX, "t", 2), expected);
        assert_eq!(Keys::parse("").unwrap_err(), InvalidSecretKey::Missing);
        assert_eq!(format!("{:?}", Keys::parse(HEX).unwrap()), "Keys(***)");
    }

    #[test]
    fn a_private_key_is_read_only_with_its_key_and_for_its_authority() {
        let keys = Keys::parse(HEX).unwrap();
        let (authority, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let stored = keys.encrypt(authority, b"private").unwrap();
        assert!(!stored.windows(7).any(|window| window == b"private"));
        assert_ne!(keys.encrypt(authority, b"private").unwrap(), stored);
        assert_eq!(keys.decrypt(authority, &stored).unwrap(), b"private");
        assert_eq!(keys.decrypt(other, &stored), Err(WrongKey));
        assert_eq!(Keys::parse(&"ff".repeat(32)).unwrap().decrypt(authority, &stored), Err(WrongKey));
        let mut changed = stored.clone();
        changed[20] ^= 1;
        assert_eq!(keys.decrypt(authority, &changed), Err(WrongKey));
        for length in [0, 11, 12, 20] {
            assert_eq!(keys.decrypt(authority, &stored[..length]), Err(WrongKey));
        }
    }
}
