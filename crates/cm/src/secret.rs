//! Tokens as secrets: how they are made, and how they are kept without being kept.

use std::fmt;

use base64::Engine as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use ids::{ApplicationName, EndpointToken, InvalidId};
use rand::distr::{Alphanumeric, SampleString as _};
use sha2::Sha256;

const KEY_BYTES_MIN: usize = 32;
/// Letters and digits of a generated token: 24 of 62 kinds are 142 bits.
const GENERATED_CHARS: usize = 24;

/// The key of the hashes under which tokens are stored. Without it nobody who has the database can tell which
/// texts are tokens; with another one all tokens are unknown.
#[derive(Clone)]
pub(crate) struct TokenKey(Hmac<Sha256>);

/// The hash of a token in an application.
pub(crate) type TokenHash = [u8; 32];

/// Why a text is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidKey {
    #[error(
        "is missing: set a secret of at least {KEY_BYTES_MIN} random bytes in hex or base64, as `openssl rand -hex 32` makes it"
    )]
    Missing,
    #[error("is neither hex nor base64: use what `openssl rand -hex 32` makes")]
    Encoding,
    #[error("has {0} bytes, fewer than the {KEY_BYTES_MIN} needed: use what `openssl rand -hex 32` makes")]
    Short(usize),
}

impl TokenKey {
    /// Reads a key in hex (digits and a-f only) or base64 (standard or URL alphabet, padded or not).
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidKey> {
        let text = text.trim();
        if text.is_empty() {
            return Err(InvalidKey::Missing);
        }
        let bytes = hex(text).or_else(|| base64(text)).ok_or(InvalidKey::Encoding)?;
        if bytes.len() < KEY_BYTES_MIN {
            return Err(InvalidKey::Short(bytes.len()));
        }
        // HMAC takes keys of any length.
        Hmac::new_from_slice(&bytes).map(Self).map_err(|_| InvalidKey::Encoding)
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

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    digits
        .len()
        .is_multiple_of(2)
        .then(|| digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let bare: String = text
        .trim_end_matches('=')
        .chars()
        .map(|c| match c {
            '-' => '+',
            '_' => '/',
            other => other,
        })
        .collect();
    base64::engine::general_purpose::STANDARD_NO_PAD.decode(bare).ok()
}

/// A new token of letters and digits.
pub(crate) fn generate() -> Result<EndpointToken, InvalidId> {
    EndpointToken::parse(&Alphanumeric.sample_string(&mut rand::rng(), GENERATED_CHARS))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const BASE64: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn hash(key: &str, application: &str, token: &str) -> TokenHash {
        let application = ApplicationName::parse(application).unwrap();
        TokenKey::parse(key).unwrap().hash(&application, &EndpointToken::parse(token).unwrap())
    }

    #[test]
    fn a_key_is_the_same_in_hex_and_base64() {
        let expected = hash(HEX, "app", "token");
        for key in [HEX.to_uppercase().as_str(), BASE64, BASE64.trim_end_matches('='), &format!(" {HEX}\n")] {
            assert_eq!(hash(key, "app", "token"), expected, "{key}");
        }
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
    fn bad_keys_are_refused_with_the_fix() {
        assert_eq!(TokenKey::parse("").unwrap_err(), InvalidKey::Missing);
        assert_eq!(TokenKey::parse("not a key!").unwrap_err(), InvalidKey::Encoding);
        assert_eq!(TokenKey::parse("0011").unwrap_err(), InvalidKey::Short(2));
        assert!(InvalidKey::Missing.to_string().contains("openssl rand -hex 32"));
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
