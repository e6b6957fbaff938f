//! Guessing passwords and endpoint tokens is slowed down, by the address that it comes from.
//!
//! Each address may fail so often in a minute. One that fails more often is not listened to for a second, then for two,
//! four, up to a longest time, as long as it goes on; a minute without failures clears it.
//!
//! Many devices may have one address, and most of them do nothing wrong. So the same mistake again is no guess: a device
//! that goes on with an old token or password is counted once in a while. And an address that is not listened to is
//! still listened to as far as it has proven something before: for the tokens and the user names that were right there.
//! Passwords of such a user name could go on being guessed there, but that is slowed down by `ccm`, name by name.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hash};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ids::{ApplicationName, EndpointToken};
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use tokio::time::Instant;

use crate::clients::Sender;
use crate::config;
use crate::failure::{Failure, Sequel};
use crate::identity::Identity;
use crate::login::Login;
use crate::metrics::Metrics;
use crate::outbox::CloseReason;

/// The part of a minute's failures that an address may make after it has not been listened to.
const SECOND_CHANCE: f64 = 0.1;
/// For how long the same mistake at the same address does not count again.
const SAME_MISTAKE: Duration = Duration::from_secs(600);

/// Slows down guessing.
pub(crate) struct Throttle {
    config: config::Throttle,
    logins: Watch,
    tokens: Watch,
    memory: Memory,
    metrics: Arc<Metrics>,
}

impl Throttle {
    pub(crate) fn new(config: config::Throttle, metrics: Arc<Metrics>) -> Self {
        let watch = |per_minute| Watch::new(per_minute, config.blocks(), config.addresses_max);
        Self {
            logins: watch(config.failed_logins_per_minute_per_address),
            tokens: watch(config.unknown_tokens_per_minute_per_address),
            memory: Memory::new(config.remembered_max),
            config,
            metrics,
        }
    }

    /// Whether an address may try to log in.
    ///
    /// # Errors
    /// How many seconds it may not.
    pub(crate) fn check_login(&self, address: IpAddr, login: &Login, now: Instant) -> Result<(), u32> {
        let Err(seconds) = self.logins.check(address, now) else { return Ok(()) };
        if self.memory.is_proven(address, &name(login)) {
            return Ok(());
        }
        self.metrics.throttled("login");
        Err(seconds)
    }

    /// A login was right.
    pub(crate) fn right_login(&self, address: IpAddr, login: &Login) {
        self.memory.prove(address, &name(login));
    }

    /// A login has failed.
    pub(crate) fn failed_login(&self, address: IpAddr, login: &Login, now: Instant) {
        let is_news = self.memory.is_new_mistake(address, &(name(login), login.password.as_str()), now);
        if is_news && self.logins.fail(address, now) {
            tracing::warn!(
                %address,
                "too many failed logins from this address; it is not listened to for a while \
                 (kpc.throttle.failed_logins_per_minute_per_address)"
            );
        }
    }

    /// Whether the sender may show a token that is new at its address.
    ///
    /// # Errors
    /// 429 with the time to wait.
    pub(crate) fn check_token(
        &self,
        sender: Sender<'_>,
        application: &ApplicationName,
        token: &EndpointToken,
    ) -> Result<(), Failure> {
        if self.tokens.is_quiet() {
            return Ok(());
        }
        let Some(address) = sender.address() else { return Ok(()) };
        let Err(seconds) = self.tokens.check(address, Instant::now()) else { return Ok(()) };
        if self.memory.is_proven(address, &(application, token))
            || sender.connection().is_some_and(|connection| connection.uses(token))
        {
            return Ok(());
        }
        self.metrics.throttled("token");
        let reason = "too many unknown endpoint tokens came from this address \
                      (kpc.throttle.unknown_tokens_per_minute_per_address); try again later";
        Err(Failure::refused(429, reason).with(Sequel::Wait(seconds)))
    }

    /// The sender has shown a token that is good. Nearly always it was good at the same address just before, and that is
    /// all that is looked at then.
    pub(crate) fn good_token(&self, sender: Sender<'_>, application: &ApplicationName, identity: &Identity) {
        let Some(address) = sender.address() else { return };
        let from = number(address);
        if identity.last_from.load(Ordering::Relaxed) != from {
            identity.last_from.store(from, Ordering::Relaxed);
            self.memory.prove(address, &(application, &identity.token));
        }
    }

    /// The sender has shown a token that the register does not know. Ends its connection when that happens too often.
    pub(crate) fn unknown_token(
        &self,
        sender: Sender<'_>,
        application: &ApplicationName,
        token: &EndpointToken,
        now: Instant,
    ) {
        if let Some(address) = sender.address() {
            if !self.memory.is_new_mistake(address, &(application, token), now) {
                return;
            }
            if self.tokens.fail(address, now) {
                tracing::warn!(
                    %address,
                    "too many unknown endpoint tokens from this address; it is not listened to for a while \
                     (kpc.throttle.unknown_tokens_per_minute_per_address)"
                );
            }
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

/// A login without its password; not to be taken for an application's token.
fn name(login: &Login) -> (&'static str, &str, &str) {
    ("login", login.tenant.as_str(), &login.username)
}

/// What was right and wrong, with the addresses where it was shown. Kept as hashes that nobody can foresee: neither
/// passwords nor tokens can be read out of them.
struct Memory {
    hasher: RandomState,
    proven: Cache<u64, ()>,
    /// Until when each mistake is no news.
    mistakes: Cache<u64, Instant>,
}

impl Memory {
    fn new(max: usize) -> Self {
        Self { hasher: RandomState::new(), proven: Cache::new(max), mistakes: Cache::new(max) }
    }

    fn key(&self, address: IpAddr, what: &impl Hash) -> u64 {
        self.hasher.hash_one((network(address), what))
    }

    fn prove(&self, address: IpAddr, what: &impl Hash) {
        let key = self.key(address, what);
        if self.proven.get(&key).is_none() {
            self.proven.insert(key, ());
        }
    }

    fn is_proven(&self, address: IpAddr, what: &impl Hash) -> bool {
        self.proven.get(&self.key(address, what)).is_some()
    }

    /// Notes a mistake; returns whether it is the first of its kind for a while.
    fn is_new_mistake(&self, address: IpAddr, what: &impl Hash, now: Instant) -> bool {
        let key = self.key(address, what);
        if self.mistakes.get(&key).is_some_and(|until| now < until) {
            return false;
        }
        self.mistakes.insert(key, now + SAME_MISTAKE);
        true
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

/// A number for an address; no two addresses of devices have the same, and none has 0.
fn number(address: IpAddr) -> u64 {
    match network(address) {
        IpAddr::V4(address) => 1 << 32 | u64::from(address.to_bits()),
        IpAddr::V6(address) => u64::try_from(address.to_bits() >> 64).unwrap_or_default() | 1 << 63,
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
    fn the_same_mistake_counts_once_in_a_while_and_elsewhere_again() {
        let memory = Memory::new(100);
        let now = Instant::now();
        assert!(memory.is_new_mistake(address(1), &"wrong", now));
        assert!(!memory.is_new_mistake(address(1), &"wrong", now + SAME_MISTAKE / 2));
        assert!(
            memory.is_new_mistake(address(2), &"wrong", now) && memory.is_new_mistake(address(1), &"w", now)
        );
        assert!(memory.is_new_mistake(address(1), &"wrong", now + SAME_MISTAKE));
        for number in 0..10_000 {
            memory.is_new_mistake(address(1), &number, now);
            memory.prove(address(1), &number);
        }
        assert!(memory.mistakes.len() <= 100 && memory.proven.len() <= 100);
    }

    #[test]
    fn what_was_right_at_an_address_is_proven_there_only() {
        let memory = Memory::new(100);
        memory.prove(address(1), &"right");
        assert!(memory.is_proven(address(1), &"right") && !memory.is_proven(address(1), &"other"));
        assert!(!memory.is_proven(address(2), &"right"));
    }

    #[test]
    fn addresses_have_numbers_of_their_own() {
        let parse = |text: &str| number(text.parse().unwrap());
        let all = ["0.0.0.0", "10.0.0.1", "10.0.0.2", "::", "::1:0:0:0:0", "2001:db8::"].map(parse);
        let different: std::collections::BTreeSet<_> = all.into_iter().collect();
        assert!(different.len() == all.len() && !different.contains(&0));
        assert_eq!(parse("::ffff:10.0.0.1"), parse("10.0.0.1"));
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
