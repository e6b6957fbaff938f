//! Passwords: how they are made, and how they are kept without being kept.
//!
//! A password that a person chose may be guessed, so it is hashed with argon2id, which is slow. One that was made here has 190
//! random bits that nobody guesses, so a keyed hash is enough, and thousands of devices log in again in a second.

use std::fmt;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use hmac::{Hmac, Mac as _};
use rand::distr::{Alphanumeric, SampleString as _};
use sha2::Sha256;
use uuid::Uuid;

use crate::keys::Keys;

/// Letters and digits of a generated password: 32 of 62 kinds are 190 bits.
const GENERATED_CHARS: usize = 32;
/// A chosen password has at least this many characters.
pub(crate) const CHOSEN_CHARS_MIN: usize = 8;
/// A chosen password has at most this many bytes.
pub(crate) const CHOSEN_BYTES_MAX: usize = 256;

/// Why a password may not be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a password has at least {CHOSEN_CHARS_MIN} characters and at most {CHOSEN_BYTES_MAX} bytes, and is not the user name; leave it out to have one made"
)]
pub(crate) struct InvalidPassword;

/// A hash could not be made.
#[derive(Debug, thiserror::Error)]
#[error("a password cannot be hashed: {0}")]
pub(crate) struct Unhashable(String);

/// How a password was hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// A chosen password.
    Argon2id,
    /// A generated password.
    HmacSha256,
}

impl Scheme {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Argon2id => "argon2id",
            Self::HmacSha256 => "hmac-sha256",
        }
    }
}

impl TryFrom<String> for Scheme {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        [Self::Argon2id, Self::HmacSha256]
            .into_iter()
            .find(|scheme| scheme.as_str() == text)
            .ok_or_else(|| format!("{text} is no scheme of password hashes"))
    }
}

/// The hash of a password, as it is stored.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Hash {
    pub(crate) scheme: Scheme,
    /// A PHC string, or the HMAC in base64.
    pub(crate) text: String,
}

impl fmt::Debug for Hash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Hash({}, ***)", self.scheme.as_str())
    }
}

/// A new password of letters and digits.
pub(crate) fn generate() -> String {
    Alphanumeric.sample_string(&mut rand::rng(), GENERATED_CHARS)
}

/// Whether a person may choose this password.
pub(crate) fn check_chosen(username: &str, password: &str) -> Result<(), InvalidPassword> {
    let long_enough = password.chars().count() >= CHOSEN_CHARS_MIN;
    if long_enough && password.len() <= CHOSEN_BYTES_MAX && password != username {
        Ok(())
    } else {
        Err(InvalidPassword)
    }
}

/// Makes and compares hashes.
pub(crate) struct Hasher {
    params: Params,
    pepper: [u8; 32],
    generated: Hmac<Sha256>,
    /// The hash of no password that anybody has.
    decoy: String,
}

impl Hasher {
    pub(crate) fn new(keys: &Keys, params: Params) -> Result<Self, Unhashable> {
        let (pepper, generated) = (keys.pepper(), keys.generated_passwords());
        let mut hasher = Self { params, pepper, generated, decoy: String::new() };
        hasher.decoy = hasher.chosen(&generate())?.text;
        Ok(hasher)
    }

    fn argon2(&self) -> Result<Argon2<'_>, Unhashable> {
        Argon2::new_with_secret(&self.pepper, Algorithm::Argon2id, Version::V0x13, self.params.clone())
            .map_err(|error| Unhashable(error.to_string()))
    }

    /// The hash of a chosen password. Slow: not for an asynchronous task.
    pub(crate) fn chosen(&self, password: &str) -> Result<Hash, Unhashable> {
        let hash = self.argon2()?.hash_password(password.as_bytes());
        let text = hash.map_err(|error| Unhashable(error.to_string()))?.to_string();
        Ok(Hash { scheme: Scheme::Argon2id, text })
    }

    /// Whether this is the chosen password. Slow, whatever the answer.
    pub(crate) fn is_chosen(&self, hash: &str, password: &str) -> bool {
        let Ok(hash) = PasswordHash::new(hash) else {
            self.waste_time(password);
            return false;
        };
        // The costs are those of the hash, also when the configuration has changed since.
        self.argon2().is_ok_and(|argon2| argon2.verify_password(password.as_bytes(), &hash).is_ok())
    }

    /// Takes as long as the check of a chosen password.
    pub(crate) fn waste_time(&self, password: &str) {
        if let (Ok(argon2), Ok(decoy)) = (self.argon2(), PasswordHash::new(&self.decoy)) {
            // Nobody has this password, and nobody asks.
            let _ = argon2.verify_password(password.as_bytes(), &decoy);
        }
    }

    /// The hash of a password that was generated for these credentials.
    pub(crate) fn generated(&self, credentials: Uuid, password: &str) -> Hash {
        let mac = self.generated_mac(credentials, password).finalize().into_bytes();
        Hash { scheme: Scheme::HmacSha256, text: STANDARD_NO_PAD.encode(mac) }
    }

    /// Whether this is the password that was generated for these credentials. Fast, and in a time that tells nothing.
    pub(crate) fn is_generated(&self, credentials: Uuid, hash: &str, password: &str) -> bool {
        let Ok(expected) = STANDARD_NO_PAD.decode(hash) else { return false };
        self.generated_mac(credentials, password).verify_slice(&expected).is_ok()
    }

    fn generated_mac(&self, credentials: Uuid, password: &str) -> Hmac<Sha256> {
        let mut mac = self.generated.clone();
        // An id has a fixed length, so no two pairs make the same input.
        mac.update(credentials.as_bytes());
        mac.update(password.as_bytes());
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hasher(key: &str) -> Hasher {
        Hasher::new(&Keys::parse(&key.repeat(32)).unwrap(), Params::new(64, 1, 1, None).unwrap()).unwrap()
    }

    #[test]
    fn a_chosen_password_is_recognised_only_with_the_key() {
        let hasher = hasher("5a");
        let hash = hasher.chosen("correct horse").unwrap();
        assert!(hash.text.starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{}", hash.text);
        assert_ne!(hash, hasher.chosen("correct horse").unwrap());
        assert!(hasher.is_chosen(&hash.text, "correct horse"));
        assert!(!hasher.is_chosen(&hash.text, "correct horse "));
        assert!(!hasher.is_chosen("no hash", "correct horse"));
        assert!(!super::tests::hasher("5b").is_chosen(&hash.text, "correct horse"));
        assert_eq!(format!("{hash:?}"), "Hash(argon2id, ***)");
    }

    #[test]
    fn a_hash_keeps_its_costs_when_the_configuration_changes() {
        let hash = hasher("5a").chosen("correct horse").unwrap();
        let keys = Keys::parse(&"5a".repeat(32)).unwrap();
        let changed = Hasher::new(&keys, Params::new(128, 2, 1, None).unwrap()).unwrap();
        assert!(changed.is_chosen(&hash.text, "correct horse"));
    }

    #[test]
    fn a_generated_password_belongs_to_its_credentials() {
        let hasher = hasher("5a");
        let (id, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let password = generate();
        assert!(password.len() == 32 && password.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        assert_ne!(password, generate());
        let hash = hasher.generated(id, &password);
        assert!(hasher.is_generated(id, &hash.text, &password));
        assert!(!hasher.is_generated(other, &hash.text, &password));
        assert!(!hasher.is_generated(id, &hash.text, "another"));
        assert!(!hasher.is_generated(id, "", &password) && !hasher.is_generated(id, "*", &password));
        assert!(!super::tests::hasher("5b").is_generated(id, &hash.text, &password));
    }

    #[test]
    fn weak_and_endless_passwords_may_not_be_chosen() {
        assert_eq!(check_chosen("u", "pässwör"), Err(InvalidPassword));
        assert_eq!(check_chosen("u", "pässwörd"), Ok(()));
        assert_eq!(check_chosen("username", "username"), Err(InvalidPassword));
        assert_eq!(check_chosen("u", &"x".repeat(256)), Ok(()));
        assert_eq!(check_chosen("u", &"x".repeat(257)), Err(InvalidPassword));
    }
}
