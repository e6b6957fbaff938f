//! How many messages per second one source may send.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

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
        *since = now;
        if *left < 1.0 {
            return false;
        }
        *left -= 1.0;
        true
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
    fn the_back_off_grows_to_about_a_second() {
        let mut backoff = Backoff::new();
        assert!(backoff.next() < Duration::from_millis(130));
        let last = (0..10).map(|_| backoff.next()).last().unwrap();
        assert!(last > Duration::from_millis(700) && last < Duration::from_millis(1_300), "{last:?}");
    }
}
