//! Guessing passwords and endpoint tokens is slowed down, by the address that it comes from.
//!
//! Each address may fail so often in a minute. One that fails more often is not listened to for a second, then for two,
//! four, up to a longest time, as long as it goes on; a minute without failures clears it. While an address is not
//! listened to, nothing that it says is looked up, right or wrong: so it learns nothing, and costs next to nothing. What
//! devices at that address have proven before goes on: a connection sends with the tokens that it has used already.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ids::EndpointToken;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use tokio::time::Instant;

use crate::clients::Sender;
use crate::config;
use crate::failure::{Failure, Sequel};
use crate::metrics::Metrics;
use crate::outbox::CloseReason;

/// The part of a minute's failures that an address may make after it has not been listened to.
const SECOND_CHANCE: f64 = 0.1;

/// Slows down guessing.
pub(crate) struct Throttle {
    config: config::Throttle,
    logins: Watch,
    tokens: Watch,
    metrics: Arc<Metrics>,
}

impl Throttle {
    pub(crate) fn new(config: config::Throttle, metrics: Arc<Metrics>) -> Self {
        let watch = |per_minute| Watch::new(per_minute, config.blocks(), config.addresses_max);
        Self {
            logins: watch(config.failed_logins_per_minute_per_address),
            tokens: watch(config.unknown_tokens_per_minute_per_address),
            config,
            metrics,
        }
    }

    /// Whether an address may try to log in.
    ///
    /// # Errors
    /// How many seconds it may not.
    pub(crate) fn check_login(&self, address: Option<IpAddr>, now: Instant) -> Result<(), u32> {
        let Some(address) = address else { return Ok(()) };
        self.logins.check(address, now).inspect_err(|_| self.metrics.throttled("login"))
    }

    /// A login has failed.
    pub(crate) fn failed_login(&self, address: Option<IpAddr>, now: Instant) {
        if let Some(address) = address
            && self.logins.fail(address, now)
        {
            tracing::warn!(
                %address,
                "too many failed logins from this address; it is not listened to for a while \
                 (kpc.throttle.failed_logins_per_minute_per_address)"
            );
        }
    }

    /// Whether the sender may show a token that it may not have shown before.
    ///
    /// # Errors
    /// 429 with the time to wait.
    pub(crate) fn check_token(&self, sender: Sender<'_>, token: &EndpointToken) -> Result<(), Failure> {
        if self.tokens.is_quiet() {
            return Ok(());
        }
        let Some(address) = sender.address() else { return Ok(()) };
        let Err(seconds) = self.tokens.check(address, Instant::now()) else { return Ok(()) };
        if sender.connection().is_some_and(|connection| connection.uses(token)) {
            return Ok(());
        }
        self.metrics.throttled("token");
        let reason = "too many unknown endpoint tokens came from this address \
                      (kpc.throttle.unknown_tokens_per_minute_per_address); try again later";
        Err(Failure::refused(429, reason).with(Sequel::Wait(seconds)))
    }

    /// The sender has shown a token that the register does not know. Ends its connection when that happens too often.
    pub(crate) fn unknown_token(&self, sender: Sender<'_>, now: Instant) {
        if let Some(address) = sender.address()
            && self.tokens.fail(address, now)
        {
            tracing::warn!(
                %address,
                "too many unknown endpoint tokens from this address; it is not listened to for a while \
                 (kpc.throttle.unknown_tokens_per_minute_per_address)"
            );
        }
        let max = self.config.unknown_tokens_per_minute_per_connection;
        if let Some(connection) = sender.connection()
            && max > 0
            && connection.unknown_tokens(now) > max
        {
            self.metrics.throttled("connection");
            tracing::info!(
                client_id = &*connection.client_id,
                "closing a connection: it showed too many unknown endpoint tokens \
                 (kpc.throttle.unknown_tokens_per_minute_per_connection)"
            );
            connection.close(CloseReason::Guessing);
        }
    }
}

/// The addresses that have failed at one kind of thing.
struct Watch {
    /// Failures per minute of one address; 0: not watched.
    per_minute: u32,
    block_first: Duration,
    block_max: Duration,
    /// The least suspicious are forgotten when there are too many.
    suspects: Cache<IpAddr, Arc<Mutex<Suspect>>>,
    begin: Instant,
    /// Until when the last of all blocks lasts, in ms since `begin`: mostly that has passed, and nothing is looked up.
    blocked_until: AtomicU64,
}

/// An address that has failed.
struct Suspect {
    /// Failures that are left to it.
    left: f64,
    since: Instant,
    /// How many times it was blocked in a row.
    blocks: u32,
    blocked_until: Instant,
}

impl Watch {
    fn new(per_minute: u32, (block_first, block_max): (Duration, Duration), addresses_max: usize) -> Self {
        Self {
            per_minute,
            block_first,
            block_max,
            suspects: Cache::new(addresses_max),
            begin: Instant::now(),
            blocked_until: AtomicU64::new(0),
        }
    }

    fn since_begin(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.begin).as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether no address has ever been blocked, which is so nearly everywhere.
    fn is_quiet(&self) -> bool {
        self.blocked_until.load(Ordering::Relaxed) == 0
    }

    fn check(&self, address: IpAddr, now: Instant) -> Result<(), u32> {
        if self.blocked_until.load(Ordering::Relaxed) < self.since_begin(now) {
            return Ok(());
        }
        let Some(suspect) = self.suspects.get(&network(address)) else { return Ok(()) };
        let left = suspect.lock().blocked_until.saturating_duration_since(now);
        if left.is_zero() {
            return Ok(());
        }
        Err(u32::try_from(left.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX))
    }

    /// Counts a failure; returns whether the address is blocked now and was not before.
    fn fail(&self, address: IpAddr, now: Instant) -> bool {
        if self.per_minute == 0 {
            return false;
        }
        let most = f64::from(self.per_minute);
        let fresh = || {
            let suspect = Suspect { left: most, since: now, blocks: 0, blocked_until: now };
            Ok::<_, std::convert::Infallible>(Arc::new(Mutex::new(suspect)))
        };
        let suspect = self.suspects.get_or_insert_with(&network(address), fresh);
        let suspect = suspect.unwrap_or_else(|never| match never {});
        let mut suspect = suspect.lock();
        let passed = now.saturating_duration_since(suspect.since).as_secs_f64();
        suspect.left += passed / 60.0 * most;
        suspect.since = now.max(suspect.since);
        if suspect.left >= most {
            (suspect.left, suspect.blocks) = (most, 0);
        }
        suspect.left -= 1.0;
        if suspect.left >= 1.0 || suspect.blocked_until > now {
            return false;
        }
        let block = self.block_first.saturating_mul(1_u32.checked_shl(suspect.blocks).unwrap_or(u32::MAX));
        let until = now + block.min(self.block_max);
        suspect.blocks += 1;
        suspect.blocked_until = until;
        // Being blocked is no time of good conduct.
        (suspect.since, suspect.left) = (until, (most * SECOND_CHANCE).max(1.0));
        self.blocked_until.fetch_max(self.since_begin(until), Ordering::Relaxed);
        true
    }
}

/// What counts as one address: of IPv6 the first half, for the other half is everybody's own to choose.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(first: u64, longest: u64) -> (Duration, Duration) {
        (Duration::from_secs(first), Duration::from_secs(longest))
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn an_address_that_fails_too_often_waits_longer_and_longer() {
        let watch = Watch::new(20, seconds(1, 8), 100);
        let mut now = Instant::now();
        let mut waits = Vec::new();
        for _ in 0..6 {
            while watch.check(address(1), now).is_ok() {
                watch.fail(address(1), now);
            }
            assert!(watch.check(address(2), now).is_ok(), "another address is not concerned");
            let wait = watch.check(address(1), now).unwrap_err();
            waits.push(wait);
            now += Duration::from_secs(wait.into());
        }
        assert_eq!(waits, [1, 2, 4, 8, 8, 8]);
    }

    #[test]
    fn as_many_failures_as_are_allowed_have_no_consequence_and_a_quiet_minute_clears_all() {
        let watch = Watch::new(20, seconds(1, 60), 100);
        let now = Instant::now();
        assert_eq!((0..19).filter(|_| watch.fail(address(1), now)).count(), 0);
        assert!(watch.check(address(1), now).is_ok());
        assert!(watch.fail(address(1), now));
        assert!(watch.check(address(1), now).is_err());
        let later = now + Duration::from_secs(120);
        assert!(watch.check(address(1), later).is_ok());
        assert_eq!((0..19).filter(|_| watch.fail(address(1), later)).count(), 0);
        assert!(watch.fail(address(1), later));
        assert_eq!(watch.check(address(1), later), Err(1), "the first block again");
    }

    #[test]
    fn what_is_known_of_addresses_is_bounded_and_nothing_is_watched_without_a_limit() {
        let watch = Watch::new(5, seconds(1, 1), 100);
        let now = Instant::now();
        for number in 0..10_000_u32 {
            watch.fail(IpAddr::from(number.to_be_bytes()), now);
        }
        assert!(watch.suspects.len() <= 100, "{}", watch.suspects.len());
        let off = Watch::new(0, seconds(1, 1), 100);
        assert!((0..1_000).all(|_| !off.fail(address(1), now) && off.check(address(1), now).is_ok()));
    }

    #[test]
    fn half_an_ipv6_address_is_one_place() {
        let parse = |text: &str| network(text.parse().unwrap());
        assert_eq!(parse("2001:db8:1:2:3::4"), parse("2001:db8:1:2:ffff::"));
        assert_ne!(parse("2001:db8:1:2::"), parse("2001:db8:1:3::"));
        assert_eq!(parse("::ffff:10.0.0.1"), parse("10.0.0.1"));
        assert_ne!(parse("10.0.0.1"), parse("10.0.0.2"));
    }
}
