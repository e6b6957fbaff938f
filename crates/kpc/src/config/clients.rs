//! Sections of the gateway's configuration about who connects: `[kpc.clients]`, `[kpc.throttle]`, `[kpc.traffic]`.

use std::time::Duration;

use serde::Deserialize;

/// Section `[kpc.clients]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Clients {
    /// How long one question to the register of client credentials may take, in ms.
    pub timeout_ms: u64,
    /// Clients whose credentials are looked up at once; more wait for their turn, as long as one question may take.
    pub questions_max: usize,
    /// Over how long clients with a password are disconnected after NATS was away, in s: their credentials may have been
    /// revoked meanwhile, and only they can show them again.
    pub recheck_s: u32,
}

impl Default for Clients {
    fn default() -> Self {
        Self { timeout_ms: 2_000, questions_max: 1_024, recheck_s: 60 }
    }
}

impl Clients {
    /// The time limit as messages have it.
    pub(crate) fn timeout(&self) -> i64 {
        i64::try_from(self.timeout_ms).unwrap_or(i64::MAX)
    }
}

/// Section `[kpc.throttle]`. A number of 0 turns that limit off. Where all clients come through one proxy they have one
/// address.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Throttle {
    /// Failed logins per minute from one address; from one that has more none is looked at for a while.
    pub failed_logins_per_minute_per_address: u32,
    /// Unknown endpoint tokens per minute from one address, over MQTT and HTTP; from one that has more no token is looked
    /// up for a while that its connection has not used before.
    pub unknown_tokens_per_minute_per_address: u32,
    /// Unknown endpoint tokens per minute on one connection; one that has more is closed.
    pub unknown_tokens_per_minute_per_connection: u32,
    /// For how long an address is not listened to at first, in s. It doubles from time to time as long as the failures go
    /// on.
    pub block_first_s: u32,
    /// The longest time for which an address is not listened to, in s.
    pub block_max_s: u32,
    /// Addresses whose failures are remembered, of IPv6 the first 64 bits.
    pub addresses_max: usize,
    /// Tokens and user names that were right at an address, and those that were wrong, that are remembered; so many of
    /// each.
    pub remembered_max: usize,
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            failed_logins_per_minute_per_address: 300,
            unknown_tokens_per_minute_per_address: 1_000,
            unknown_tokens_per_minute_per_connection: 100,
            block_first_s: 1,
            block_max_s: 30,
            addresses_max: 10_000,
            remembered_max: 200_000,
        }
    }
}

impl Throttle {
    /// The first and the longest time for which an address is not listened to.
    pub(crate) fn blocks(&self) -> (Duration, Duration) {
        (Duration::from_secs(self.block_first_s.into()), Duration::from_secs(self.block_max_s.into()))
    }
}

/// Section `[kpc.traffic]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Traffic {
    /// How often the traffic of endpoints is reported (9/ELCE), in s; 0: never.
    pub interval_s: u64,
}

impl Default for Traffic {
    fn default() -> Self {
        Self { interval_s: 60 }
    }
}
