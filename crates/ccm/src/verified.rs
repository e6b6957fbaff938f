//! Chosen passwords that were found right a short while ago, so that a fleet that comes back does not pay for argon2 again.

use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit as _, Mac as _};
use quick_cache::sync::Cache;
use rand::RngExt as _;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

/// What is kept is no password but a hash of it and of the stored hash, under a key that lives only in this process. So a
/// password that was changed, by whichever replica, is never found here, whether an event came or not.
pub(crate) struct Verified {
    key: Hmac<Sha256>,
    kept: Cache<Uuid, Kept>,
    ttl: Duration,
}

#[derive(Clone)]
struct Kept {
    tag: [u8; 32],
    until: Instant,
}

impl Verified {
    pub(crate) fn new(passwords_max: usize, ttl: Duration) -> anyhow::Result<Self> {
        let secret: [u8; 32] = rand::rng().random();
        let key = Hmac::new_from_slice(&secret).map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok(Self { key, kept: Cache::new(passwords_max), ttl })
    }

    /// Whether this password was found right for this stored hash.
    pub(crate) fn holds(&self, credentials: Uuid, hash: &str, password: &str, now: Instant) -> bool {
        let Some(kept) = self.kept.get(&credentials) else { return false };
        now < kept.until && bool::from(kept.tag.ct_eq(&self.tag(hash, password)))
    }

    /// Notes that the password is right.
    pub(crate) fn note(&self, credentials: Uuid, hash: &str, password: &str, now: Instant) {
        let tag = self.tag(hash, password);
        self.kept.insert(credentials, Kept { tag, until: now + self.ttl });
    }

    /// Credentials that became unusable are not needed any more.
    pub(crate) fn forget(&self, credentials: Uuid) {
        self.kept.remove(&credentials);
    }

    fn tag(&self, hash: &str, password: &str) -> [u8; 32] {
        let mut mac = self.key.clone();
        mac.update(hash.as_bytes());
        // No stored hash holds a NUL, so no two pairs make the same input.
        mac.update(&[0]);
        mac.update(password.as_bytes());
        mac.finalize().into_bytes().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_held_for_its_hash_and_its_time() {
        let verified = Verified::new(100, Duration::from_secs(60)).unwrap();
        let (id, now) = (Uuid::from_u128(1), Instant::now());
        assert!(!verified.holds(id, "hash", "right", now));
        verified.note(id, "hash", "right", now);
        assert!(verified.holds(id, "hash", "right", now));
        assert!(!verified.holds(id, "hash", "wrong", now));
        assert!(!verified.holds(id, "changed", "right", now));
        assert!(!verified.holds(Uuid::from_u128(2), "hash", "right", now));
        assert!(!verified.holds(id, "hash", "right", now + Duration::from_secs(60)));
        verified.forget(id);
        assert!(!verified.holds(id, "hash", "right", now));
    }
}
