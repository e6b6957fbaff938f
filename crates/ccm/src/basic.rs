//! User names and passwords.

use ids::TenantId;
use ism::Secret;
use std::time::Duration;
use uuid::Uuid;

use crate::error::Error;
use crate::logins::{Account, Verdict};
use crate::metrics::{Method, Outcome};
use crate::password::{Hash, generate};
use crate::registry::{Registry, refusal};
use crate::store::{Basic, Change, Found};

const USERNAME_CHARS_MAX: usize = 128;

/// What came of a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Login {
    Accepted(Uuid),
    /// The password is right, but the credentials are of no use.
    Refused(Uuid, &'static str),
    /// No such name, or not its password.
    Wrong,
    Throttled(Duration),
    Busy,
}

/// Credentials, and their password if it was made here: it is told this once.
pub(crate) struct NewBasic {
    pub(crate) credentials: Basic,
    pub(crate) password: Option<String>,
}

impl Registry {
    /// Makes credentials, with the password that is wished for or a random one.
    pub(crate) async fn create_basic(
        &self,
        tenant: &TenantId,
        username: &str,
        wish: Option<Secret>,
    ) -> Result<NewBasic, Error> {
        check_username(username)?;
        let id = Uuid::now_v7();
        let (hash, password) = self.hash(id, username, wish).await?;
        let credentials = self.store.create_basic(tenant, id, username, &hash).await?;
        Ok(NewBasic { credentials, password })
    }

    /// Replaces a password; who is connected with the old one is disconnected.
    pub(crate) async fn set_password(
        &self,
        change: Change<'_>,
        id: Uuid,
        wish: Option<Secret>,
    ) -> Result<NewBasic, Error> {
        let before: Basic = self.store.get(change.tenant, id).await?;
        let (hash, password) = self.hash(id, &before.username, wish).await?;
        let credentials = self.store.set_password(change, id, &hash).await?;
        self.logins.forget(id);
        self.announcer.announce().await;
        Ok(NewBasic { credentials, password })
    }

    async fn hash(
        &self,
        id: Uuid,
        username: &str,
        wish: Option<Secret>,
    ) -> Result<(Hash, Option<String>), Error> {
        if let Some(wish) = wish {
            return Ok((self.logins.hash_chosen(username, wish).await?, None));
        }
        let password = generate();
        Ok((self.logins.hash_generated(id, &password), Some(password)))
    }

    /// Whether a client may connect with this name and password (22/CAP).
    pub(crate) async fn log_in(
        &self,
        tenant: &str,
        username: &str,
        password: Secret,
    ) -> Result<Login, Error> {
        let login = self.try_log_in(tenant, username, password).await;
        let outcome = match &login {
            Ok(Login::Accepted(_)) => Outcome::Accepted,
            Ok(Login::Refused(..)) => Outcome::Refused,
            Ok(Login::Wrong) => Outcome::Unknown,
            Ok(Login::Throttled(_)) => Outcome::Throttled,
            Ok(Login::Busy) | Err(_) => Outcome::Unavailable,
        };
        self.count(Method::Basic, outcome);
        login
    }

    async fn try_log_in(&self, tenant: &str, username: &str, password: Secret) -> Result<Login, Error> {
        let found = self.find(tenant, username).await?;
        let account =
            found.as_ref().map(|found| Account { credentials: found.credentials_id, hash: found.hash() });
        let verdict = self.logins.check(tenant, username, account, password).await;
        let found = match verdict {
            Verdict::Right { at_once: true } => found,
            // The check took its time: what was changed meanwhile counts.
            Verdict::Right { at_once: false } => {
                let now = self.find(tenant, username).await?;
                now.filter(|now| found.is_some_and(|found| found.hash() == now.hash()))
            }
            Verdict::Wrong => None,
            Verdict::Throttled(pause) => return Ok(Login::Throttled(pause)),
            Verdict::Busy => return Ok(Login::Busy),
        };
        let Some(Found { credentials_id: id, state, last_use_at, .. }) = found else {
            return Ok(Login::Wrong);
        };
        let state = self.used::<Basic>(id, state, last_use_at).await?;
        Ok(state.map_or(Login::Wrong, |state| match refusal(state) {
            None => Login::Accepted(id),
            Some(reason) => Login::Refused(id, reason),
        }))
    }

    async fn find(&self, tenant: &str, username: &str) -> Result<Option<Found>, Error> {
        match TenantId::parse(tenant) {
            Ok(tenant) if check_username(username).is_ok() => self.store.find_basic(&tenant, username).await,
            _ => Ok(None),
        }
    }
}

fn check_username(username: &str) -> Result<(), Error> {
    let length = username.chars().count();
    let plain = username.trim() == username && !username.chars().any(char::is_control);
    if plain && (1..=USERNAME_CHARS_MAX).contains(&length) { Ok(()) } else { Err(Error::InvalidUsername) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_names_are_short_and_plain() {
        for good in ["u", "device 7", "jürgen@example.org", &"x".repeat(128)] {
            assert!(check_username(good).is_ok(), "{good}");
        }
        for bad in ["", " u", "u ", "a\0b", "a\nb", &"x".repeat(129)] {
            assert!(check_username(bad).is_err(), "{bad:?}");
        }
    }
}
