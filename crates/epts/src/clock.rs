//! The platform's time for samples that carry none.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::point::Micros;

/// Gives every sample a microsecond of its own: strictly increasing in this process, also when the system's clock
/// steps back. Whole milliseconds are left out, because device clocks mostly tick in those and a sample stamped here
/// should not meet one stamped by a device. Two replicas may give the same moment; the database tells, and the
/// writer then asks for another.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    last: AtomicI64,
}

impl Clock {
    pub(crate) fn next(&self) -> Micros {
        let now = Micros::now();
        let after = |last: i64| {
            let next = now.get().max(last.saturating_add(1));
            if next % 1_000 == 0 { next + 1 } else { next }
        };
        let last = self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(after(last)));
        let (Ok(last) | Err(last)) = last;
        Micros::new(after(last)).unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_moment_is_given_twice_across_threads() {
        let clock = Clock::default();
        let given: Vec<Vec<i64>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..20_000).map(|_| clock.next().get()).collect::<Vec<_>>()))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(given.iter().all(|moments| moments.is_sorted_by(|a, b| a < b)));
        let all: HashSet<i64> = given.into_iter().flatten().collect();
        assert_eq!(all.len(), 80_000);
        assert!(all.iter().all(|moment| moment % 1_000 != 0));
    }
}
