//! What was revoked lately, for those that were looked up before a revocation and are entered after it.
//!
//! Whoever looks something up takes a mark before, enters what it found where revocations look for it, and asks then
//! what was revoked since the mark. So a revocation either finds the entry or is found.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Revocations that are remembered. When more come while something is looked up, it counts as revoked.
const RECENT_MAX: usize = 4_096;

/// The latest revocations.
#[derive(Debug, Default)]
pub(crate) struct Revocations {
    /// How many there have been; written under the lock.
    count: AtomicU64,
    recent: Mutex<VecDeque<Box<str>>>,
}

impl Revocations {
    /// Where to look from later.
    pub(crate) fn mark(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Something was revoked.
    pub(crate) fn note(&self, what: &str) {
        let mut recent = self.recent.lock();
        if recent.len() >= RECENT_MAX {
            recent.pop_front();
        }
        recent.push_back(what.into());
        self.count.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether anything of this may have been revoked since the mark was taken.
    pub(crate) fn since(&self, mark: u64, is_concerned: impl Fn(&str) -> bool) -> bool {
        if self.mark() == mark {
            return false;
        }
        let recent = self.recent.lock();
        let new = usize::try_from(self.mark().saturating_sub(mark)).unwrap_or(usize::MAX);
        new > recent.len() || recent.iter().rev().take(new).any(|what| is_concerned(what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_revoked_after_the_mark_is_noticed() {
        let revocations = Revocations::default();
        let concerned = |mark| revocations.since(mark, |what| what == "a");
        revocations.note("a");
        let mark = revocations.mark();
        assert!(!concerned(mark));
        revocations.note("b");
        assert!(!concerned(mark));
        revocations.note("a");
        assert!(concerned(mark));
    }

    #[test]
    fn too_many_to_remember_count_as_revoked() {
        let revocations = Revocations::default();
        let mark = revocations.mark();
        for number in 0..=RECENT_MAX {
            revocations.note(&number.to_string());
        }
        assert!(revocations.since(mark, |_| false));
        assert!(!revocations.since(mark + 1, |_| false));
        assert_eq!(revocations.recent.lock().len(), RECENT_MAX);
    }
}
