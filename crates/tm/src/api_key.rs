//! API keys as texts: `bdr_<id>_<secret>`.
//!
//! A key is found by its digest alone, so that a text of another form, which an operator wrote into the
//! configuration, is a key like any other.

use std::fmt;

use crate::secret::{Sha256Digest, digest, random_text};

const ID_CHARS: usize = 16;
/// 32 of 62 kinds are 190 random bits.
const SECRET_CHARS: usize = 32;

/// A new API key; its text is shown once.
pub(crate) struct NewApiKey {
    /// The id by which it is managed; not a secret.
    pub(crate) id: String,
    /// The whole key.
    pub(crate) text: String,
    /// What is stored of it.
    pub(crate) hash: Sha256Digest,
}

impl NewApiKey {
    /// A random key.
    pub(crate) fn generate() -> Self {
        let id = random_text(ID_CHARS).to_lowercase();
        let text = format!("bdr_{id}_{}", random_text(SECRET_CHARS));
        Self { hash: digest(&text), id, text }
    }

    /// A key of a given text.
    pub(crate) fn of(text: &str) -> Self {
        Self { id: random_text(ID_CHARS).to_lowercase(), text: text.to_owned(), hash: digest(text) }
    }
}

impl fmt::Debug for NewApiKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("NewApiKey").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_key_names_its_id_and_is_kept_as_a_digest() {
        let key = NewApiKey::generate();
        let secret = key.text.strip_prefix(&format!("bdr_{}_", key.id)).unwrap();
        assert_eq!(secret.len(), SECRET_CHARS);
        assert!(secret.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        assert_eq!(key.hash, digest(&key.text));
        assert!(!format!("{key:?}").contains(secret));
        assert_ne!(NewApiKey::generate().text, key.text);
        assert_eq!(NewApiKey::of("any text").hash, digest("any text"));
    }
}
