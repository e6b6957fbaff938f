//! Keys that stand in a configuration.

use base64::Engine as _;

/// The shortest key, in bytes.
const BYTES_MIN: usize = 32;

/// Why a text is no key. The messages continue the name of the configuration key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecretKey {
    /// There is none.
    #[error(
        "is missing: set a secret of at least {BYTES_MIN} random bytes in hex or base64, as `openssl rand -hex 32` makes it"
    )]
    Missing,
    /// It cannot be read.
    #[error("is neither hex nor base64: use what `openssl rand -hex 32` makes")]
    Encoding,
    /// It can be guessed; how many bytes it has.
    #[error("has {0} bytes, fewer than the {BYTES_MIN} needed: use what `openssl rand -hex 32` makes")]
    Short(usize),
}

/// Reads a key of at least 32 bytes in hex (digits and a-f only) or base64 (standard or URL alphabet, padded or not).
///
/// # Errors
/// When it is none; what is said holds nothing of it.
pub fn secret_key(text: &str) -> Result<Vec<u8>, InvalidSecretKey> {
    let text = text.trim();
    if text.is_empty() {
        return Err(InvalidSecretKey::Missing);
    }
    let bytes = hex(text).or_else(|| base64(text)).ok_or(InvalidSecretKey::Encoding)?;
    if bytes.len() < BYTES_MIN { Err(InvalidSecretKey::Short(bytes.len())) } else { Ok(bytes) }
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

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1efb";
    const BASE64: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHvs=";

    #[test]
    fn a_key_is_the_same_in_hex_and_base64() {
        let expected: Vec<u8> = (0..31).chain([0xfb]).collect();
        let bare = BASE64.trim_end_matches('=');
        for key in [HEX.to_uppercase().as_str(), BASE64, bare, &bare.replace('/', "_"), &format!(" {HEX}\n")]
        {
            assert_eq!(secret_key(key).as_ref(), Ok(&expected), "{key}");
        }
    }

    #[test]
    fn bad_keys_are_refused_with_the_fix() {
        assert_eq!(secret_key(" "), Err(InvalidSecretKey::Missing));
        for bad in ["not a key!", &"é".repeat(32)] {
            assert_eq!(secret_key(bad), Err(InvalidSecretKey::Encoding), "{bad}");
        }
        assert_eq!(secret_key("0011"), Err(InvalidSecretKey::Short(2)));
        for error in [InvalidSecretKey::Missing, InvalidSecretKey::Encoding, InvalidSecretKey::Short(2)] {
            assert!(error.to_string().contains("openssl rand -hex 32"));
        }
    }
}
