//! Is this the password? Answered quickly for those who know it, and slowly for those who guess.
//!
//! | | cost |
//! |---|---|
//! | the right generated password | one HMAC |
//! | the right chosen password, found right before | one HMAC |
//! | the right chosen password | one argon2 |
//! | a wrong password of either kind, and an unknown name | one argon2 |
//! | too many failures in a row | nothing, but the right password of the first two rows is still let in: a chosen one ten times in a pause |
//!
//! So time does not tell which names exist, and whoever guesses at a name cannot keep its devices out, unless with a flood of
//! guesses those whose passwords people chose; the gateway counts failures of each address against that.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ism::Secret;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use crate::config::Config;
use crate::keys::Keys;
use crate::password::{Hash, Hasher, InvalidPassword, Scheme, Unhashable, check_chosen};
use crate::throttle::{NameHash, Throttle};
use crate::verified::Verified;

/// Whether a password is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// With or without the wait for argon2.
    Right {
        at_once: bool,
    },
    Wrong,
    /// Nobody looked: too many failures in a row. Try again after this time.
    Throttled(Duration),
    /// Nobody looked: too many wait already.
    Busy,
}

/// A password cannot be hashed now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HashError {
    #[error(transparent)]
    Invalid(#[from] InvalidPassword),
    #[error("too many passwords wait to be hashed (ccm.password_checks_waiting_max): try again")]
    Busy,
    #[error(transparent)]
    Unhashable(#[from] Unhashable),
    #[error("the hashing of a password was interrupted")]
    Interrupted,
}

/// The name and the stored hash that a password is held against.
pub(crate) struct Account {
    pub(crate) credentials: Uuid,
    pub(crate) hash: Hash,
}

/// Checks passwords. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Logins(Arc<Shared>);

struct Shared {
    hasher: Hasher,
    names: RandomState,
    verified: Verified,
    throttle: Throttle,
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Logins {
    pub(crate) fn new(config: &Config, keys: &Keys) -> anyhow::Result<Self> {
        let waiting_max = config.password_checks_waiting_max.saturating_add(config.password_checks_max);
        let shared = Shared {
            hasher: Hasher::new(keys, config.argon2()?)?,
            names: RandomState::new(),
            verified: Verified::new(config.verified_passwords_max, config.verified_password_ttl())?,
            throttle: Throttle::new(config.login_failures_max, config.login_pause_max()),
            running: Arc::new(Semaphore::new(config.password_checks_max)),
            waiting: Arc::new(Semaphore::new(waiting_max.min(Semaphore::MAX_PERMITS))),
        };
        Ok(Self(Arc::new(shared)))
    }

    /// Whether the password is that of the account, which is none when the name is unknown.
    pub(crate) async fn check(
        &self,
        tenant: &str,
        username: &str,
        account: Option<Account>,
        password: Secret,
    ) -> Verdict {
        let shared = &self.0;
        let name = shared.names.hash_one((tenant, username));
        if let Some(account) = &account
            && shared.is_known_right(name, account, &password)
        {
            shared.throttle.succeeded(name);
            return Verdict::Right { at_once: true };
        }
        if let Some(pause) = shared.throttle.pause(name, Instant::now()) {
            return Verdict::Throttled(pause);
        }
        let Some(permits) = shared.slot().await else { return Verdict::Busy };
        let checking = shared.clone();
        // Not cancelled with the caller, so that a failure is counted also when nobody waits for the answer any more.
        let checked = tokio::task::spawn_blocking(move || {
            let verdict = checking.check_slowly(name, account.as_ref(), password.as_str());
            drop(permits);
            verdict
        });
        checked.await.unwrap_or(Verdict::Busy)
    }

    /// The hash of a password that a person chose.
    pub(crate) async fn hash_chosen(&self, username: &str, password: Secret) -> Result<Hash, HashError> {
        check_chosen(username, password.as_str())?;
        let permits = self.0.slot().await.ok_or(HashError::Busy)?;
        let hashing = self.0.clone();
        let hashed = tokio::task::spawn_blocking(move || {
            let hash = hashing.hasher.chosen(password.as_str());
            drop(permits);
            hash
        });
        Ok(hashed.await.map_err(|_| HashError::Interrupted)??)
    }

    /// The hash of a password that was made for these credentials.
    pub(crate) fn hash_generated(&self, credentials: Uuid, password: &str) -> Hash {
        self.0.hasher.generated(credentials, password)
    }

    /// Forgets that a password of these credentials was right.
    pub(crate) fn forget(&self, credentials: Uuid) {
        self.0.verified.forget(credentials);
    }
}

impl Shared {
    /// A place among those that argon2 works for; none when too many wait.
    async fn slot(&self) -> Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        let waiting = self.waiting.clone().try_acquire_owned().ok()?;
        let running = self.running.clone().acquire_owned().await.ok()?;
        Some((waiting, running))
    }

    fn is_known_right(&self, name: NameHash, account: &Account, password: &Secret) -> bool {
        let Account { credentials, hash } = account;
        match hash.scheme {
            Scheme::HmacSha256 => self.hasher.is_generated(*credentials, &hash.text, password.as_str()),
            Scheme::Argon2id => {
                let now = Instant::now();
                self.throttle.may_look_quickly(name, now)
                    && self.verified.holds(*credentials, &hash.text, password.as_str(), now)
            }
        }
    }

    fn check_slowly(&self, name: NameHash, account: Option<&Account>, password: &str) -> Verdict {
        // While this one waited for its turn, others may have failed for the same name.
        if let Some(pause) = self.throttle.pause(name, Instant::now()) {
            return Verdict::Throttled(pause);
        }
        let right = match account {
            Some(Account { credentials, hash }) if hash.scheme == Scheme::Argon2id => {
                // ... or have shown the same password.
                self.verified.holds(*credentials, &hash.text, password, Instant::now())
                    || self.is_chosen(*credentials, &hash.text, password)
            }
            _ => {
                self.hasher.waste_time(password);
                false
            }
        };
        if right {
            self.throttle.succeeded(name);
            Verdict::Right { at_once: false }
        } else {
            self.throttle.failed(name, Instant::now());
            Verdict::Wrong
        }
    }

    fn is_chosen(&self, credentials: Uuid, hash: &str, password: &str) -> bool {
        let right = self.hasher.is_chosen(hash, password);
        if right {
            self.verified.note(credentials, hash, password, Instant::now());
        }
        right
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::password::generate;

    const AT_ONCE: Verdict = Verdict::Right { at_once: true };
    const SLOWLY: Verdict = Verdict::Right { at_once: false };

    fn logins(checks_max: usize, waiting_max: usize) -> Logins {
        let config = Config {
            key_encryption_key: "5a".repeat(32),
            argon2_memory_kib: 64,
            argon2_passes: 1,
            password_checks_max: checks_max,
            password_checks_waiting_max: waiting_max,
            login_failures_max: 3,
            ..Config::default()
        };
        Logins::new(&config, &Keys::parse(&config.key_encryption_key).unwrap()).unwrap()
    }

    async fn check(logins: &Logins, name: &str, hash: Option<&Hash>, password: &str) -> Verdict {
        let account = hash.map(|hash| Account { credentials: Uuid::nil(), hash: hash.clone() });
        logins.check("t", name, account, Secret::from(password)).await
    }

    #[tokio::test]
    async fn right_and_wrong_are_told_apart() {
        let logins = logins(2, 8);
        let chosen = logins.hash_chosen("u", Secret::from("correct horse")).await.unwrap();
        let password = generate();
        let generated = logins.hash_generated(Uuid::nil(), &password);
        assert_eq!(check(&logins, "u", Some(&chosen), "correct horse").await, SLOWLY);
        assert_eq!(check(&logins, "u", Some(&chosen), "correct horse").await, AT_ONCE);
        assert_eq!(check(&logins, "g", Some(&generated), &password).await, AT_ONCE);
        assert_eq!(check(&logins, "u", Some(&chosen), "wrong").await, Verdict::Wrong);
        assert_eq!(check(&logins, "g", Some(&generated), "wrong").await, Verdict::Wrong);
        assert_eq!(check(&logins, "x", None, "wrong").await, Verdict::Wrong);
        assert!(matches!(
            logins.hash_chosen("u", Secret::from("short")).await,
            Err(HashError::Invalid(InvalidPassword))
        ));
    }

    #[tokio::test]
    async fn guessing_is_throttled_but_keeps_no_device_out() {
        let logins = logins(2, 8);
        let chosen = logins.hash_chosen("u", Secret::from("correct horse")).await.unwrap();
        let password = generate();
        let generated = logins.hash_generated(Uuid::nil(), &password);
        let accounts = [("u", Some(&chosen)), ("g", Some(&generated)), ("x", None)];
        assert_eq!(check(&logins, "u", Some(&chosen), "correct horse").await, SLOWLY);
        for (name, hash) in accounts {
            for _ in 0..3 {
                assert_eq!(check(&logins, name, hash, "wrong").await, Verdict::Wrong, "{name}");
            }
            assert!(matches!(check(&logins, name, hash, "wrong").await, Verdict::Throttled(_)), "{name}");
        }
        assert_eq!(check(&logins, "u", Some(&chosen), "correct horse").await, AT_ONCE);
        assert_eq!(check(&logins, "g", Some(&generated), &password).await, AT_ONCE);
        // Their success has forgiven the failures.
        assert_eq!(check(&logins, "g", Some(&generated), "wrong").await, Verdict::Wrong);
    }

    #[tokio::test]
    async fn a_remembered_password_is_not_guessed_in_a_pause() {
        let logins = logins(2, 8);
        let chosen = logins.hash_chosen("u", Secret::from("correct horse")).await.unwrap();
        assert_eq!(check(&logins, "u", Some(&chosen), "correct horse").await, SLOWLY);
        for _ in 0..3 {
            assert_eq!(check(&logins, "u", Some(&chosen), "wrong").await, Verdict::Wrong);
        }
        for _ in 0..10 {
            assert!(matches!(check(&logins, "u", Some(&chosen), "guess").await, Verdict::Throttled(_)));
        }
        assert!(matches!(check(&logins, "u", Some(&chosen), "correct horse").await, Verdict::Throttled(_)));
    }

    #[tokio::test]
    async fn guesses_at_once_are_no_way_around_the_pause() {
        let logins = logins(1, 64);
        let guesses = (0..40).map(|_| check(&logins, "x", None, "wrong"));
        let verdicts = futures::future::join_all(guesses).await;
        let looked_at = verdicts.iter().filter(|verdict| **verdict == Verdict::Wrong).count();
        assert_eq!(looked_at, 3, "{verdicts:?}");
    }

    #[tokio::test]
    async fn too_many_at_once_are_refused() {
        let logins = logins(1, 1);
        let guesses = (0..40).map(|number| {
            let logins = logins.clone();
            async move { check(&logins, &number.to_string(), None, "wrong").await }
        });
        let verdicts = futures::future::join_all(guesses).await;
        assert!(verdicts.contains(&Verdict::Busy) && verdicts.contains(&Verdict::Wrong), "{verdicts:?}");
    }

    #[tokio::test]
    async fn a_changed_password_is_not_remembered() {
        let logins = logins(1, 8);
        let first = logins.hash_chosen("u", Secret::from("correct horse")).await.unwrap();
        assert_eq!(check(&logins, "u", Some(&first), "correct horse").await, SLOWLY);
        let second = logins.hash_chosen("u", Secret::from("battery staple")).await.unwrap();
        assert_eq!(check(&logins, "u", Some(&second), "correct horse").await, Verdict::Wrong);
        assert_eq!(check(&logins, "u", Some(&second), "battery staple").await, SLOWLY);
        logins.forget(Uuid::nil());
        assert_eq!(check(&logins, "u", Some(&second), "battery staple").await, SLOWLY);
    }
}
