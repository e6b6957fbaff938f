//! Section `[ccm]`.

use std::fmt;
use std::time::Duration;

use argon2::Params;
use serde::Deserialize;

use crate::authority::ROOT_TTL_S;
use crate::keys::Keys;

/// The key, the limits and the costs of the service.
#[derive(Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The secret that protects private keys and passwords: at least 32 random bytes in hex or base64. Required. All replicas
    /// need the same, for ever: with another one the service does not start.
    pub key_encryption_key: String,
    /// Memory of one check of a chosen password, in KiB.
    pub argon2_memory_kib: u32,
    /// Passes over that memory.
    pub argon2_passes: u32,
    /// Lanes of that memory.
    pub argon2_lanes: u32,
    /// Chosen passwords that are checked at once; each takes one core.
    pub password_checks_max: usize,
    /// Chosen passwords that wait for their check; above, the answer is 503.
    pub password_checks_waiting_max: usize,
    /// Chosen passwords that were right and are remembered, as keyed hashes in memory.
    pub verified_passwords_max: usize,
    /// How long they are remembered, in seconds.
    pub verified_password_ttl_s: u64,
    /// Failed logins in a row for one user name before there are pauses.
    pub login_failures_max: u32,
    /// The longest of these pauses, in seconds.
    pub login_pause_max_s: u64,
    /// Requests of other services that are answered at once, of each kind; more wait in the subscription.
    pub concurrent_requests_max: usize,
    /// Basic credentials of one tenant.
    pub basic_credentials_max: i64,
    /// X.509 credentials of one tenant.
    pub x509_credentials_max: i64,
    /// Certificate authorities of one tenant, own and foreign.
    pub authorities_max: i64,
    /// How long an issued certificate is valid when nobody says, in seconds.
    pub certificate_ttl_s: u64,
    /// The longest time that a certificate may be issued for, in seconds.
    pub certificate_ttl_max_s: u64,
    /// How long a tenant's own authority is valid, in seconds.
    pub authority_ttl_s: u64,
}

const DAY_S: u64 = 86_400;

impl Default for Config {
    fn default() -> Self {
        Self {
            key_encryption_key: String::new(),
            argon2_memory_kib: Params::DEFAULT_M_COST,
            argon2_passes: Params::DEFAULT_T_COST,
            argon2_lanes: Params::DEFAULT_P_COST,
            password_checks_max: 2,
            password_checks_waiting_max: 128,
            verified_passwords_max: 20_000,
            verified_password_ttl_s: 600,
            login_failures_max: 5,
            login_pause_max_s: 30,
            concurrent_requests_max: 256,
            basic_credentials_max: 100_000,
            x509_credentials_max: 100_000,
            authorities_max: 20,
            certificate_ttl_s: 365 * DAY_S,
            certificate_ttl_max_s: 3_650 * DAY_S,
            authority_ttl_s: 5_475 * DAY_S,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Config")
            .field("key_encryption_key", &"***")
            .field("basic_credentials_max", &self.basic_credentials_max)
            .field("x509_credentials_max", &self.x509_credentials_max)
            .field("authorities_max", &self.authorities_max)
            .finish_non_exhaustive()
    }
}

impl Config {
    /// Faults that the types cannot express, as (key, message).
    pub(crate) fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if let Err(invalid) = Keys::parse(&self.key_encryption_key) {
            faults.push(("key_encryption_key", invalid.to_string()));
        }
        let count = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        let limit = |value: i64| u64::try_from(value).unwrap_or(0);
        let ranges = [
            ("argon2_memory_kib", u64::from(self.argon2_memory_kib), 8, 4_194_304),
            ("argon2_passes", u64::from(self.argon2_passes), 1, 100),
            ("argon2_lanes", u64::from(self.argon2_lanes), 1, 64),
            ("password_checks_max", count(self.password_checks_max), 1, 1_024),
            ("password_checks_waiting_max", count(self.password_checks_waiting_max), 1, 100_000),
            ("verified_passwords_max", count(self.verified_passwords_max), 1, 10_000_000),
            ("verified_password_ttl_s", self.verified_password_ttl_s, 1, 86_400),
            ("login_failures_max", u64::from(self.login_failures_max), 1, 1_000),
            ("login_pause_max_s", self.login_pause_max_s, 1, 30),
            ("concurrent_requests_max", count(self.concurrent_requests_max), 1, 65_536),
            ("basic_credentials_max", limit(self.basic_credentials_max), 1, 100_000_000),
            ("x509_credentials_max", limit(self.x509_credentials_max), 1, 100_000_000),
            ("authorities_max", limit(self.authorities_max), 1, 10_000),
            ("certificate_ttl_s", self.certificate_ttl_s, 60, self.certificate_ttl_max_s),
            ("certificate_ttl_max_s", self.certificate_ttl_max_s, 60, self.authority_ttl_s),
            ("authority_ttl_s", self.authority_ttl_s, 60, ROOT_TTL_S),
        ];
        for (key, value, min, max) in ranges {
            if !(min..=max).contains(&value) {
                faults.push((key, format!("must be from {min} to {max}")));
            }
        }
        if self.argon2_memory_kib >= 8 && self.argon2_memory_kib < self.argon2_lanes.saturating_mul(8) {
            faults.push(("argon2_memory_kib", "must be at least 8 for each of argon2_lanes".to_owned()));
        }
        faults
    }

    /// The costs of a check of a chosen password.
    pub(crate) fn argon2(&self) -> anyhow::Result<Params> {
        Params::new(self.argon2_memory_kib, self.argon2_passes, self.argon2_lanes, None)
            .map_err(|error| anyhow::anyhow!("ccm.argon2_memory_kib, argon2_passes, argon2_lanes: {error}"))
    }

    pub(crate) fn verified_password_ttl(&self) -> Duration {
        Duration::from_secs(self.verified_password_ttl_s)
    }

    pub(crate) fn login_pause_max(&self) -> Duration {
        Duration::from_secs(self.login_pause_max_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_has_no_default() {
        let keys = |config: &Config| config.faults().into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        assert_eq!(keys(&Config::default()), ["key_encryption_key"]);
        let good = Config { key_encryption_key: "5a".repeat(32), ..Config::default() };
        assert!(keys(&good).is_empty());
        assert!(!format!("{good:?}").contains("5a5a"));
        let wrong = Config {
            argon2_lanes: 4,
            argon2_memory_kib: 31,
            basic_credentials_max: -1,
            login_pause_max_s: 31,
            certificate_ttl_s: good.certificate_ttl_max_s + 1,
            ..good
        };
        let expected =
            ["login_pause_max_s", "basic_credentials_max", "certificate_ttl_s", "argon2_memory_kib"];
        assert_eq!(keys(&wrong), expected);
        assert!(good_argon2().is_ok());
    }

    fn good_argon2() -> anyhow::Result<Params> {
        Config::default().argon2()
    }
}
