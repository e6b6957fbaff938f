//! Tokens as secrets: how they are made, and how they are kept without being kept.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use ids::{ApplicationName, EndpointToken, InvalidId};
use rand::distr::{Alphanumeric, SampleString as _};
use runtime::{InvalidSecretKey, secret_key};
use sha2::Sha256;

/// Letters and digits of a generated token: 24 of 62 kinds are 142 bits.
const GENERATED_CHARS: usize = 24;

/// The key of the hashes under which tokens are stored. Without it nobody who has the database can tell which
/// texts are tokens; with another one all tokens are unknown.
#[derive(Clone)]
pub(crate) struct TokenKey(Hmac<Sha256>);

/// The hash of a token in an application.
pub(crate) type TokenHash = [u8; 32];

impl TokenKey {
    /// Reads the key, see [`secret_key`].
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidSecretKey> {
        // HMAC takes keys of any length.
        Hmac::new_from_slice(&secret_key(text)?).map(Self).map_err(|_| InvalidSecretKey::Encoding)
    }

    /// The hash of a token in an application. The same token in another application has another hash.
    pub(crate) fn hash(&self, application: &ApplicationName, token: &EndpointToken) -> TokenHash {
        let mut mac = self.0.clone();
        mac.update(application.as_str().as_bytes());
        // No application name holds a NUL, so no two pairs make the same input.
        mac.update(&[0]);
        mac.update(token.as_str().as_bytes());
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("TokenKey(***)")
    }
}

/// A new token of letters and digits.
pub(crate) fn generate() -> Result<EndpointToken, InvalidId> {
    EndpointToken::parse(&Alphanumeric.sample_string(&mut rand::rng(), GENERATED_CHARS))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    fn hash(key: &str, application: &str, token: &str) -> TokenHash {
        let application = ApplicationName::parse(application).unwrap();
        TokenKey::parse(key).unwrap().hash(&application, &EndpointToken::parse(token).unwrap())
    }

    #[test]
    fn the_hash_is_hmac_sha256_of_application_and_token() {
        // printf 'app\0token' | openssl dgst -sha256 -mac HMAC -macopt hexkey:<HEX>
        let expected = "a0d698f0371b043e63ef74f50ab2d0115c814690a20c978379ce939b0d5ed6f1";
        let made: String = hash(HEX, "app", "token").iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(made, expected);
        assert_ne!(hash(HEX, "app1", "token"), hash(HEX, "app", "token"));
        assert_ne!(hash(HEX, "ap", "ptoken"), hash(HEX, "app", "token"));
        assert_ne!(hash(&"ff".repeat(32), "app", "token"), hash(HEX, "app", "token"));
    }

    #[test]
    fn debug_output_hides_the_key() {
        assert_eq!(TokenKey::parse("").unwrap_err(), InvalidSecretKey::Missing);
        assert_eq!(format!("{:?}", TokenKey::parse(HEX).unwrap()), "TokenKey(***)");
    }

    #[test]
    fn generated_tokens_are_long_and_plain() {
        let token = generate().unwrap();
        assert_eq!(token.as_str().len(), 24);
        assert!(token.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric()));
        assert_ne!(token, generate().unwrap());
    }
}
