//! Guessing passwords is slowed down for each user name.
//!
//! Names are counted whether they exist or not, so that the counting tells nothing about that. Counted in each replica.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quick_cache::sync::Cache;

/// Names whose failures are remembered; the least used are forgotten first.
const NAMES_MAX: usize = 100_000;
/// Failures are forgotten after so long without another.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
/// The first pause; each further failure doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Quick looks at passwords that were right before, in one pause.
const QUICK_LOOKS_MAX: u32 = 10;

/// A user name in a tenant, as a hash that an attacker cannot choose.
pub(crate) type NameHash = u64;

/// Failed logins by user name.
pub(crate) struct Throttle {
    names: Cache<NameHash, Arc<Mutex<Failures>>>,
    failures_max: u32,
    pause_max: Duration,
}

#[derive(Debug, Default)]
struct Failures {
    in_a_row: u32,
    last: Option<Instant>,
    paused_until: Option<Instant>,
    quick_looks: u32,
}

impl Throttle {
    /// After `failures_max` failures in a row each further one is followed by a pause.
    pub(crate) fn new(failures_max: u32, pause_max: Duration) -> Self {
        Self { names: Cache::new(NAMES_MAX), failures_max, pause_max }
    }

    /// How long no password of this name is looked at.
    pub(crate) fn pause(&self, name: NameHash, now: Instant) -> Option<Duration> {
        let until = self.names.get(&name)?.lock().paused_until?;
        until.checked_duration_since(now).filter(|left| !left.is_zero())
    }

    /// Whether a password that a person chose, and that was right before, may be looked at now. In a pause only a few times:
    /// a quick look costs nothing, so without a bound it could be guessed there as fast as messages come.
    pub(crate) fn may_look_quickly(&self, name: NameHash, now: Instant) -> bool {
        let Some(failures) = self.names.get(&name) else { return true };
        let mut failures = failures.lock();
        if failures.paused_until.is_none_or(|until| until <= now) {
            return true;
        }
        failures.quick_looks = failures.quick_looks.saturating_add(1);
        failures.quick_looks <= QUICK_LOOKS_MAX
    }

    pub(crate) fn failed(&self, name: NameHash, now: Instant) {
        let made = self.names.get_or_insert_with(&name, || Ok::<_, Infallible>(Arc::default()));
        let Ok(failures) = made;
        let mut failures = failures.lock();
        let old = failures.last.is_some_and(|last| now.saturating_duration_since(last) > FORGOTTEN_AFTER);
        failures.in_a_row = if old { 1 } else { failures.in_a_row.saturating_add(1) };
        failures.last = Some(now);
        if let Some(over) = failures.in_a_row.checked_sub(self.failures_max) {
            let doubled = FIRST_PAUSE.saturating_mul(1_u32.checked_shl(over).unwrap_or(u32::MAX));
            failures.paused_until = Some(now + doubled.min(self.pause_max));
            failures.quick_looks = 0;
        }
    }

    pub(crate) fn succeeded(&self, name: NameHash) {
        self.names.remove(&name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pause(throttle: &Throttle, now: Instant) -> u64 {
        throttle.pause(1, now).map_or(0, |pause| pause.as_secs())
    }

    #[test]
    fn pauses_double_up_to_a_bound_and_end() {
        let throttle = Throttle::new(3, Duration::from_secs(30));
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..10 {
            throttle.failed(1, now);
            let paused = pause(&throttle, now);
            pauses.push(paused);
            now += Duration::from_secs(paused);
            assert_eq!(throttle.pause(1, now), None);
        }
        assert_eq!(pauses, [0, 0, 1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(throttle.pause(2, now), None);
    }

    #[test]
    fn a_success_and_time_forgive() {
        let throttle = Throttle::new(1, Duration::from_secs(30));
        let now = Instant::now();
        throttle.failed(1, now);
        throttle.failed(1, now);
        assert_eq!(pause(&throttle, now), 2);
        throttle.succeeded(1);
        assert_eq!(pause(&throttle, now), 0);
        throttle.failed(1, now);
        throttle.failed(1, now + FORGOTTEN_AFTER + FIRST_PAUSE);
        assert_eq!(pause(&throttle, now + FORGOTTEN_AFTER + FIRST_PAUSE), 1);
    }

    #[test]
    fn quick_looks_are_few_in_a_pause() {
        let throttle = Throttle::new(1, Duration::from_secs(30));
        let now = Instant::now();
        let looks = |now| (0..2 * QUICK_LOOKS_MAX).filter(|_| throttle.may_look_quickly(1, now)).count();
        assert_eq!(looks(now), 20);
        throttle.failed(1, now);
        assert_eq!(looks(now), 10);
        assert_eq!(looks(now + FIRST_PAUSE), 20);
        throttle.failed(1, now + FIRST_PAUSE);
        assert_eq!(looks(now + FIRST_PAUSE), 10);
    }

    #[test]
    fn endless_failures_overflow_nothing() {
        let throttle = Throttle::new(0, Duration::from_secs(30));
        let now = Instant::now();
        for _ in 0..100 {
            throttle.failed(1, now);
        }
        assert_eq!(pause(&throttle, now), 30);
    }
}
