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
        self.reserve(now, now).is_some()
    }

    /// Takes one message's share, of what will come if the bucket is empty; returns when it is due. None when that is after
    /// `until`, and then nothing is taken.
    fn reserve(&self, now: Instant, until: Instant) -> Option<Instant> {
        let mut state = self.state.lock();
        let (left, since) = &mut *state;
        let passed = now.saturating_duration_since(*since).as_secs_f64();
        *left = (*left + passed * f64::from(self.per_second)).min(Self::capacity(self.per_second));
        // Messages come here in another order than into the gateway; no time may be counted twice.
        *since = now.max(*since);
        let missing = 1.0 - *left;
        let due = if missing <= 0.0 {
            now
        } else {
            *since + Duration::from_secs_f64(missing / f64::from(self.per_second))
        };
        if due > until {
            return None;
        }
        *left -= 1.0;
        Some(due)
    }

    /// Takes one message's share; when the bucket is empty, waits for it until `patience` ends, if there is any.
    ///
    /// # Errors
    /// 429 when there is no share for the message; the text names the limit's configuration key. It is passing when the
    /// message was worth waiting.
    pub(crate) async fn take(
        &self,
        source: Source,
        now: Instant,
        patience: Option<Instant>,
    ) -> Result<(), Failure> {
        match (self.reserve(now, patience.unwrap_or(now)), patience) {
            (Some(due), _) if due <= now => Ok(()),
            (Some(due), _) => {
                tokio::time::sleep_until(due).await;
                Ok(())
            }
            (None, None) => Err(source.too_fast(self.per_second)),
            // Its sender sends it again as soon as it hears of this; so not before the time is over.
            (None, Some(until)) => {
                tokio::time::sleep_until(until).await;
                Err(Failure { passing: true, ..source.too_fast(self.per_second) })
            }
        }
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

    /// The rate of a tenant.
    pub(crate) fn of(&self, tenant: &TenantId) -> Arc<Rate> {
        let full = || Ok::<_, Infallible>(Arc::new(Rate::new(self.per_second)));
        self.kept.get_or_insert_with(tenant, full).unwrap_or_else(|never| match never {})
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

    #[tokio::test]
    async fn a_refusal_names_the_configuration_key() {
        let rate = Rate::new(1);
        let now = Instant::now();
        assert_eq!((0..3).filter(|_| rate.admit(now)).count(), 2);
        for (source, key) in [
            (Source::Connection, "(kpc.limits.messages_per_second_per_connection)"),
            (Source::Endpoint, "(kpc.limits.messages_per_second_per_endpoint)"),
            (Source::Tenant, "(kpc.limits.messages_per_second_per_tenant)"),
        ] {
            let failure = rate.take(source, now, None).await.unwrap_err();
            assert!(failure.status == 429 && !failure.passing && failure.reason.contains(key), "{failure}");
        }
    }

    #[tokio::test]
    async fn what_may_wait_waits_for_its_share_and_no_longer_than_it_may() {
        let rate = Rate::new(10);
        let start = Instant::now();
        assert_eq!((0..30).filter(|_| rate.admit(start)).count(), 20);
        let until = start + Duration::from_millis(250);
        // Shares are given in the order in which they were asked for; one that comes too late takes none.
        let take = || rate.take(Source::Endpoint, start, Some(until));
        let (one, two, three) = tokio::join!(take(), take(), take());
        assert!(one.is_ok() && two.is_ok());
        assert!(three.is_err_and(|failure| failure.status == 429 && failure.passing));
        assert!(Instant::now() >= until);
        assert!(
            !rate.admit(start + Duration::from_millis(290)) && rate.admit(start + Duration::from_millis(310))
        );
    }

    #[test]
    fn every_tenant_has_a_rate_of_its_own_and_their_number_is_bounded() {
        let rates = TenantRates::new(1);
        let now = Instant::now();
        let tenant = |name: &str| TenantId::parse(name).unwrap();
        assert_eq!((0..5).filter(|_| rates.of(&tenant("one")).admit(now)).count(), 2);
        assert_eq!((0..5).filter(|_| rates.of(&tenant("two")).admit(now)).count(), 2);
        for number in 0..TENANTS_MAX + 1_000 {
            let _ = rates.of(&tenant(&number.to_string()));
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
