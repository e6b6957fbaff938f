//! How many messages per second one source may send.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use ids::TenantId;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use tokio::time::Instant;

use crate::failure::Failure;

/// Tenants whose rate is kept; the least used go first, and come back with a full bucket.
const TENANTS_MAX: usize = 10_000;

/// Whose messages a rate limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Connection,
    Endpoint,
    Tenant,
}

impl Source {
    fn too_fast(self, per_second: u32) -> Failure {
        let (who, key) = match self {
            Self::Connection => ("a connection", "messages_per_second_per_connection"),
            Self::Endpoint => ("an endpoint", "messages_per_second_per_endpoint"),
            Self::Tenant => ("all endpoints of a tenant together", "messages_per_second_per_tenant"),
        };
        let reason =
            format!("{who} may send {per_second} messages per second (kpc.limits.{key}); send more slowly");
        Failure::refused(429, reason)
    }
}

/// A token bucket: refilled at a steady rate, holding at most two seconds' worth.
#[derive(Debug)]
pub(crate) struct Rate {
    per_second: u32,
    state: Mutex<(f64, Instant)>,
}

impl Rate {
    /// A full bucket.
    pub(crate) fn new(per_second: u32) -> Self {
        Self { per_second, state: Mutex::new((Self::capacity(per_second), Instant::now())) }
    }

    fn capacity(per_second: u32) -> f64 {
        f64::from(per_second) * 2.0
    }

    /// Takes one message's share; false when the bucket is empty.
    pub(crate) fn admit(&self, now: Instant) -> bool {
        let mut state = self.state.lock();
        let (left, since) = &mut *state;
        let passed = now.saturating_duration_since(*since).as_secs_f64();
        *left = (*left + passed * f64::from(self.per_second)).min(Self::capacity(self.per_second));
        // Messages come here in another order than into the gateway; no time may be counted twice.
        *since = now.max(*since);
        if *left < 1.0 {
            return false;
        }
        *left -= 1.0;
        true
    }

    /// Takes one message's share.
    ///
    /// # Errors
    /// 429 when the bucket is empty; the text names the limit's configuration key.
    pub(crate) fn check(&self, source: Source, now: Instant) -> Result<(), Failure> {
        if self.admit(now) { Ok(()) } else { Err(source.too_fast(self.per_second)) }
    }
}

/// The rates of the tenants that have sent something.
#[derive(Debug)]
pub(crate) struct TenantRates {
    per_second: u32,
    kept: Cache<TenantId, Arc<Rate>>,
}

impl TenantRates {
    pub(crate) fn new(per_second: u32) -> Self {
        Self { per_second, kept: Cache::new(TENANTS_MAX) }
    }

    /// Takes one message's share of its tenant's rate.
    ///
    /// # Errors
    /// As [`Rate::check`].
    pub(crate) fn check(&self, tenant: &TenantId, now: Instant) -> Result<(), Failure> {
        let full = || Ok::<_, Infallible>(Arc::new(Rate::new(self.per_second)));
        let rate = self.kept.get_or_insert_with(tenant, full).unwrap_or_else(|never| match never {});
        rate.check(Source::Tenant, now)
    }
}

/// Waiting times between attempts: doubled each time up to a second, with jitter so that many waiters spread.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(1);

    pub(crate) fn new() -> Self {
        Self(Self::FIRST)
    }

    pub(crate) fn next(&mut self) -> Duration {
        let wait = self.0;
        self.0 = (wait * 2).min(Self::LONGEST);
        wait.mul_f64(rand::random_range(0.75..1.25))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_allows_a_burst_and_then_its_rate() {
        let rate = Rate::new(10);
        let start = Instant::now();
        let admitted = (0..100).filter(|_| rate.admit(start)).count();
        assert_eq!(admitted, 20);
        let later = start + Duration::from_millis(500);
        assert_eq!((0..100).filter(|_| rate.admit(later)).count(), 5);
    }

    #[test]
    fn a_message_that_comes_late_gives_no_time_back() {
        let rate = Rate::new(10);
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        assert_eq!((0..100).filter(|_| rate.admit(later)).count(), 20);
        assert!(!rate.admit(start) && !rate.admit(later));
    }

    #[test]
    fn a_refusal_names_the_configuration_key() {
        let rate = Rate::new(1);
        let now = Instant::now();
        assert_eq!((0..2).filter(|_| rate.check(Source::Endpoint, now).is_ok()).count(), 2);
        for (source, key) in [
            (Source::Connection, "(kpc.limits.messages_per_second_per_connection)"),
            (Source::Endpoint, "(kpc.limits.messages_per_second_per_endpoint)"),
            (Source::Tenant, "(kpc.limits.messages_per_second_per_tenant)"),
        ] {
            let failure = rate.check(source, now).unwrap_err();
            assert!(failure.status == 429 && failure.reason.contains(key), "{failure}");
        }
    }

    #[test]
    fn every_tenant_has_a_rate_of_its_own_and_their_number_is_bounded() {
        let rates = TenantRates::new(1);
        let now = Instant::now();
        let tenant = |name: &str| TenantId::parse(name).unwrap();
        assert_eq!((0..5).filter(|_| rates.check(&tenant("one"), now).is_ok()).count(), 2);
        assert_eq!((0..5).filter(|_| rates.check(&tenant("two"), now).is_ok()).count(), 2);
        for number in 0..TENANTS_MAX + 1_000 {
            let _ = rates.check(&tenant(&number.to_string()), now);
        }
        assert!(rates.kept.len() <= TENANTS_MAX, "{}", rates.kept.len());
    }

    #[test]
    fn the_back_off_grows_to_about_a_second() {
        let mut backoff = Backoff::new();
        assert!(backoff.next() < Duration::from_millis(130));
        let last = (0..10).map(|_| backoff.next()).last().unwrap();
        assert!(last > Duration::from_millis(700) && last < Duration::from_millis(1_300), "{last:?}");
    }
}
