//! Passwords: hashed and checked with Argon2id, a bounded number at once.

use std::sync::Arc;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::config::Config;
use crate::domain::PASSWORD_BYTES_MAX;
use crate::error::Error;
use crate::secret::random_text;

/// Logins that wait for each that is checked: who waits also holds a place among the REST requests of all services.
const WAITING_FOR_EACH: usize = 16;

/// Hashes and checks passwords. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Passwords {
    argon2: Argon2<'static>,
    permits: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    wait: std::time::Duration,
    /// Checked when there is no user of that name, so that the answer takes the same time.
    decoy: Arc<str>,
}

/// The right to have one password hashed or checked.
pub(crate) struct Turn {
    _permit: OwnedSemaphorePermit,
}

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checked {
    Wrong,
    Right,
    /// Right, but hashed at another cost than the configured one.
    Outdated,
}

impl Passwords {
    /// Costs about as much as a login.
    pub(crate) async fn new(config: &Config) -> Result<Self, Error> {
        let cost = config.argon2;
        let params = Params::new(cost.memory_kib, cost.iterations, cost.parallelism, None)
            .map_err(|error| Error::Hash(error.to_string()))?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let mut passwords = Self {
            argon2,
            permits: Arc::new(Semaphore::new(config.password_checks_max)),
            waiting: Arc::new(Semaphore::new(config.password_checks_max * WAITING_FOR_EACH)),
            wait: config.password_wait(),
            decoy: "".into(),
        };
        let turn = passwords.turn().await?;
        passwords.decoy = passwords.hash(turn, random_text(24)).await?.into();
        Ok(passwords)
    }

    /// Waits for a turn: the memory and the processor time of hashing are bounded, and so are those who wait.
    pub(crate) async fn turn(&self) -> Result<Turn, Error> {
        let _place = self.waiting.try_acquire().map_err(|_| Error::Busy)?;
        match timeout(self.wait, self.permits.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Turn { _permit: permit }),
            _ => Err(Error::Busy),
        }
    }

    /// The hash of a password, in the PHC format.
    pub(crate) async fn hash(&self, turn: Turn, password: String) -> Result<String, Error> {
        let argon2 = self.argon2.clone();
        let hashing = move || {
            let hash: Result<PasswordHash, _> = argon2.hash_password(password.as_bytes());
            // The turn ends with the work, not with the caller's patience.
            drop(turn);
            hash.map(|hash| hash.to_string()).map_err(|error| Error::Hash(error.to_string()))
        };
        tokio::task::spawn_blocking(hashing).await.map_err(|error| Error::Hash(error.to_string()))?
    }

    /// Checks a password against a hash; with no hash it takes as long and is wrong.
    pub(crate) async fn check(
        &self,
        turn: Turn,
        password: String,
        hash: Option<String>,
    ) -> Result<Checked, Error> {
        let (argon2, decoy) = (self.argon2.clone(), self.decoy.clone());
        let checking = move || {
            let checked = verify(&argon2, &password, hash.as_deref().unwrap_or(&decoy));
            drop(turn);
            if hash.is_some() { checked } else { Checked::Wrong }
        };
        tokio::task::spawn_blocking(checking).await.map_err(|error| Error::Hash(error.to_string()))
    }
}

fn verify(argon2: &Argon2<'static>, password: &str, hash: &str) -> Checked {
    let Ok(hash) = PasswordHash::new(hash) else { return Checked::Wrong };
    let fits = password.len() <= PASSWORD_BYTES_MAX;
    let password = if fits { password.as_bytes() } else { &[] };
    if argon2.verify_password(password, &hash).is_err() || !fits {
        return Checked::Wrong;
    }
    let same = Params::try_from(&hash).is_ok_and(|params| {
        let own = argon2.params();
        (params.m_cost(), params.t_cost(), params.p_cost()) == (own.m_cost(), own.t_cost(), own.p_cost())
    });
    if same { Checked::Right } else { Checked::Outdated }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Argon2Config;

    async fn passwords(iterations: u32) -> Passwords {
        let argon2 = Argon2Config { memory_kib: 32, iterations, parallelism: 1 };
        let config = Config { argon2, password_checks_max: 1, password_wait_ms: 0, ..Config::default() };
        Passwords::new(&config).await.unwrap()
    }

    async fn check(passwords: &Passwords, password: &str, hash: Option<&str>) -> Checked {
        let turn = passwords.turn().await.unwrap();
        passwords.check(turn, password.to_owned(), hash.map(str::to_owned)).await.unwrap()
    }

    #[tokio::test]
    async fn only_the_password_fits_its_hash() {
        let passwords = passwords(1).await;
        let hash = passwords.hash(passwords.turn().await.unwrap(), "hunter2".to_owned()).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=32,t=1,p=1$"), "{hash}");
        assert_eq!(check(&passwords, "hunter2", Some(&hash)).await, Checked::Right);
        assert_eq!(check(&passwords, "hunter3", Some(&hash)).await, Checked::Wrong);
        assert_eq!(check(&passwords, "hunter2", None).await, Checked::Wrong);
        assert_eq!(check(&passwords, "hunter2", Some("not a hash")).await, Checked::Wrong);
        assert_eq!(check(&passwords, &"a".repeat(300), Some(&hash)).await, Checked::Wrong);
        let again = passwords.hash(passwords.turn().await.unwrap(), "hunter2".to_owned()).await.unwrap();
        assert_ne!(again, hash);
    }

    #[tokio::test]
    async fn a_hash_of_another_cost_is_known_as_such() {
        let (cheap, dear) = (passwords(1).await, passwords(2).await);
        let hash = cheap.hash(cheap.turn().await.unwrap(), "hunter2".to_owned()).await.unwrap();
        assert_eq!(check(&dear, "hunter2", Some(&hash)).await, Checked::Outdated);
    }

    #[tokio::test]
    async fn no_more_wait_than_allowed() {
        let passwords = Passwords { wait: std::time::Duration::from_secs(60), ..passwords(1).await };
        let turn = passwords.turn().await.unwrap();
        let mut waiting: Vec<_> = (0..WAITING_FOR_EACH).map(|_| Box::pin(passwords.turn())).collect();
        for one in &mut waiting {
            assert!(futures::poll!(one).is_pending());
        }
        assert!(matches!(passwords.turn().await, Err(Error::Busy)));
        drop((turn, waiting));
        assert!(passwords.turn().await.is_ok());
    }

    #[tokio::test]
    async fn no_more_at_once_than_allowed() {
        let passwords = passwords(1).await;
        let turn = passwords.turn().await.unwrap();
        assert!(matches!(passwords.turn().await, Err(Error::Busy)));
        drop(turn);
        assert!(passwords.turn().await.is_ok());
    }
}
