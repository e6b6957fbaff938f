//! Section `[tm]`.

use std::fmt;
use std::time::Duration;

use ids::TenantId;
use serde::Deserialize;

use crate::domain::{Username, check_password};
use crate::oidc::OidcConfig;
use crate::secret::KeyEncryptionKey;

/// An API key that an operator writes into the configuration has at least this many characters.
const BOOTSTRAP_KEY_CHARS_MIN: usize = 16;

/// The keys and the limits of the service.
#[derive(Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The secret under which the keys that sign tokens are encrypted: 32 random bytes in hex or base64. Required. All
    /// replicas need the same, for ever.
    pub key_encryption_key: String,
    /// The `iss` of the tokens that the service signs. Where other parties check the tokens, the URL under
    /// which they reach the service.
    pub issuer: String,
    /// How long an access token is valid, in seconds.
    pub token_ttl_s: u32,
    /// How long a refresh token is valid, in seconds.
    pub refresh_ttl_s: u32,
    /// How long a login can be kept alive by refresh tokens, in seconds.
    pub session_max_s: u32,
    /// Logins of one user that are kept alive at once; the oldest ends when there is one more.
    pub sessions_per_user_max: i64,
    /// The cost of a password hash.
    pub argon2: Argon2Config,
    /// Passwords that are checked at once.
    pub password_checks_max: usize,
    /// How long a login waits for its turn to be checked, in milliseconds.
    pub password_wait_ms: u64,
    /// Characters of a new password at least.
    pub password_chars_min: usize,
    /// Tenants in all.
    pub tenants_max: i64,
    /// Users of one tenant.
    pub users_max: i64,
    /// API keys of one tenant that are not revoked.
    pub api_keys_max: i64,
    /// Credentials that are looked into at once for other services; more wait in the subscription.
    pub concurrent_requests_max: usize,
    /// Issuers whose tokens are accepted beside the service's own.
    pub oidc: Vec<OidcConfig>,
    /// What is made at the first start.
    pub bootstrap: Bootstrap,
}

/// The cost of a password hash (Argon2id); the defaults are those that OWASP recommends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Argon2Config {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub iterations: u32,
    /// Lanes.
    pub parallelism: u32,
}

/// A tenant, its administrator and an API key that are made when the tenant does not exist. All or none.
#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bootstrap {
    /// The tenant's id.
    pub tenant: Option<TenantId>,
    /// The user name of its administrator.
    pub admin_user: String,
    /// The administrator's password. A secret.
    pub admin_password: String,
    /// An API key with the role `admin`, any text of at least 16 characters. A secret.
    pub api_key: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            key_encryption_key: String::new(),
            issuer: "bandar".to_owned(),
            token_ttl_s: 900,
            refresh_ttl_s: 86_400,
            session_max_s: 30 * 86_400,
            sessions_per_user_max: 100,
            argon2: Argon2Config::default(),
            password_checks_max: 4,
            password_wait_ms: 2_000,
            password_chars_min: 8,
            tenants_max: 10_000,
            users_max: 10_000,
            api_keys_max: 1_000,
            concurrent_requests_max: 64,
            oidc: Vec::new(),
            bootstrap: Bootstrap::default(),
        }
    }
}

impl Default for Argon2Config {
    fn default() -> Self {
        Self { memory_kib: 19_456, iterations: 2, parallelism: 1 }
    }
}

impl fmt::Debug for Bootstrap {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Bootstrap")
            .field("tenant", &self.tenant)
            .field("admin_user", &self.admin_user)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Config")
            .field("issuer", &self.issuer)
            .field("oidc", &self.oidc)
            .field("bootstrap", &self.bootstrap)
            .finish_non_exhaustive()
    }
}

impl Bootstrap {
    /// The tenant to make, if there is one.
    pub(crate) fn is_set(&self) -> bool {
        self.tenant.is_some()
    }

    fn faults(&self, password_chars_min: usize) -> Vec<(&'static str, String)> {
        let texts = [&self.admin_user, &self.admin_password, &self.api_key];
        let set = texts.iter().filter(|text| !text.is_empty()).count() + usize::from(self.is_set());
        if set == 0 {
            return Vec::new();
        }
        if set < 4 {
            let message =
                "tenant, admin_user, admin_password and api_key belong together: set all or none".to_owned();
            return vec![("bootstrap", message)];
        }
        let mut faults = Vec::new();
        if let Err(invalid) = Username::parse(&self.admin_user) {
            faults.push(("bootstrap.admin_user", invalid.to_string()));
        }
        if let Err(invalid) = check_password(&self.admin_password, password_chars_min) {
            faults.push(("bootstrap.admin_password", invalid.to_string()));
        }
        let key = self.api_key.chars().count();
        if key < BOOTSTRAP_KEY_CHARS_MIN || !self.api_key.bytes().all(|byte| byte.is_ascii_graphic()) {
            let message = format!("must have at least {BOOTSTRAP_KEY_CHARS_MIN} printable ASCII characters");
            faults.push(("bootstrap.api_key", message));
        }
        faults
    }
}

impl Config {
    /// Faults that the types cannot express, as (key, message).
    pub(crate) fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if let Err(invalid) = KeyEncryptionKey::parse(&self.key_encryption_key) {
            faults.push(("key_encryption_key", invalid.to_string()));
        }
        if self.issuer.is_empty() || self.issuer.len() > 512 {
            faults.push(("issuer", "must have 1 to 512 characters".to_owned()));
        }
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let ranges = [
            ("token_ttl_s", i64::from(self.token_ttl_s), 60, 86_400),
            ("refresh_ttl_s", i64::from(self.refresh_ttl_s), 60, 31_536_000),
            ("session_max_s", i64::from(self.session_max_s), 60, 31_536_000),
            ("sessions_per_user_max", self.sessions_per_user_max, 1, 10_000),
            ("argon2.memory_kib", i64::from(self.argon2.memory_kib), 32, 4_194_304),
            ("argon2.iterations", i64::from(self.argon2.iterations), 1, 100),
            ("argon2.parallelism", i64::from(self.argon2.parallelism), 1, 4),
            ("password_checks_max", count(self.password_checks_max), 1, 1_024),
            ("password_wait_ms", i64::try_from(self.password_wait_ms).unwrap_or(i64::MAX), 0, 20_000),
            ("password_chars_min", count(self.password_chars_min), 1, 128),
            ("tenants_max", self.tenants_max, 1, 1_000_000),
            ("users_max", self.users_max, 1, 1_000_000),
            ("api_keys_max", self.api_keys_max, 1, 1_000_000),
            ("concurrent_requests_max", count(self.concurrent_requests_max), 1, 65_536),
        ];
        for (key, value, min, max) in ranges {
            if !(min..=max).contains(&value) {
                faults.push((key, format!("is {value}: set it to {min} to {max}")));
            }
        }
        faults.extend(self.oidc_faults());
        faults.extend(self.bootstrap.faults(self.password_chars_min));
        faults
    }

    fn oidc_faults(&self) -> Vec<(&'static str, String)> {
        let mut faults: Vec<(&'static str, String)> =
            self.oidc.iter().flat_map(OidcConfig::faults).map(|fault| ("oidc", fault)).collect();
        for (index, issuer) in self.oidc.iter().enumerate() {
            let same = self.oidc.iter().take(index).any(|other| other.issuer == issuer.issuer);
            if same || issuer.issuer == self.issuer {
                faults.push(("oidc", format!("the issuer {} is named twice", issuer.issuer)));
            }
        }
        faults
    }

    pub(crate) fn password_wait(&self) -> Duration {
        Duration::from_millis(self.password_wait_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Config {
        Config { key_encryption_key: "5a".repeat(32), ..Config::default() }
    }

    fn keys(config: &Config) -> Vec<&'static str> {
        config.faults().into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn only_the_key_has_no_default() {
        assert_eq!(keys(&Config::default()), ["key_encryption_key"]);
        assert!(keys(&good()).is_empty());
        assert!(!format!("{:?}", good()).contains("5a5a"));
    }

    #[test]
    fn every_limit_has_bounds() {
        let wrong = Config {
            token_ttl_s: 0,
            password_checks_max: 0,
            users_max: 0,
            argon2: Argon2Config { memory_kib: 1, iterations: 0, parallelism: 9 },
            ..good()
        };
        let expected = [
            "token_ttl_s",
            "argon2.memory_kib",
            "argon2.iterations",
            "argon2.parallelism",
            "password_checks_max",
            "users_max",
        ];
        assert_eq!(keys(&wrong), expected);
    }

    #[test]
    fn what_the_first_start_makes_is_all_or_nothing() {
        let all = Bootstrap {
            tenant: Some(TenantId::parse("acme").unwrap()),
            admin_user: "admin".to_owned(),
            admin_password: "hunter2-hunter2".to_owned(),
            api_key: "0123456789abcdef".to_owned(),
        };
        let with = |bootstrap: Bootstrap| Config { bootstrap, ..good() };
        assert!(keys(&with(all.clone())).is_empty());
        assert!(!format!("{:?}", with(all.clone())).contains("hunter2"));
        assert_eq!(keys(&with(Bootstrap { api_key: String::new(), ..all.clone() })), ["bootstrap"]);
        let weak = Bootstrap { admin_password: "short".to_owned(), api_key: "short".to_owned(), ..all };
        assert_eq!(keys(&with(weak)), ["bootstrap.admin_password", "bootstrap.api_key"]);
    }
}
