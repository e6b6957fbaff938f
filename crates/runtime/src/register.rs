//! What is known of names out of another service's register.
//!
//! Read on first use and kept, bounded. An announced change makes an entry stale at once, and age does after a while, in case
//! the announcement was lost. A stale entry still serves while the register cannot be asked: telemetry goes on.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::time::Instant;

/// Entries of one kind that are kept; the least used go first.
const KEPT_MAX: usize = 10_000;
const FRESH: Duration = Duration::from_secs(60);
/// A name that does not exist, or cannot be used, is asked for again after this time.
const NOTHING_FRESH: Duration = Duration::from_secs(2);
/// After a failure to ask, what is known serves this long before somebody asks again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why something could not be read from the register that has it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// There is none of that name.
    #[error("it does not exist")]
    Unknown,
    /// It may exist, but that cannot be told now.
    #[error("the register cannot be asked now: {0}")]
    Unavailable(String),
}

/// Why asking gave no answer to use.
pub(crate) enum Failure {
    /// The register does not answer: what is known serves on.
    Away(String),
    /// It answered what cannot be used: what was known before is no longer what its owner wants.
    Faulty(String),
}

/// What is known of names.
pub(crate) struct Register<K, T> {
    kept: Cache<K, Arc<Kept<T>>>,
    /// Changes that were announced so far: an answer that was asked for before one may be from before it.
    changes: AtomicU64,
}

/// What is known of one name, and for how long.
struct Kept<T> {
    value: Result<Arc<T>, LookupError>,
    until: Instant,
    stale: AtomicBool,
    refreshing: AtomicBool,
}

impl<T> Kept<T> {
    fn is_fresh(&self) -> bool {
        !self.stale.load(Ordering::Acquire) && Instant::now() < self.until
    }
}

/// Gives the right to refresh back, also when the one who had it was cancelled.
struct Refreshing<'a>(&'a AtomicBool);

impl Drop for Refreshing<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl<K: Eq + std::hash::Hash + Clone, T> Register<K, T> {
    pub(crate) fn new() -> Self {
        Self { kept: Cache::new(KEPT_MAX), changes: AtomicU64::new(0) }
    }

    pub(crate) fn fresh(&self, key: &K) -> Option<Result<Arc<T>, LookupError>> {
        self.kept.get(key).filter(|kept| kept.is_fresh()).map(|kept| kept.value.clone())
    }

    /// What is fresh, else what `ask` answers. Only one asks anew for what is stale; the others, and all while nobody can
    /// be asked, take what is kept.
    pub(crate) async fn get(
        &self,
        key: &K,
        ask: impl Future<Output = Result<Option<T>, Failure>>,
    ) -> Result<Arc<T>, LookupError> {
        let kept = self.kept.get(key);
        let mut _refreshing = None;
        if let Some(kept) = &kept {
            if kept.is_fresh() || (kept.value.is_ok() && kept.refreshing.swap(true, Ordering::AcqRel)) {
                return kept.value.clone();
            }
            _refreshing = Some(Refreshing(&kept.refreshing));
        }
        let changes = self.changes.load(Ordering::Acquire);
        let (value, fresh) = match (ask.await, kept.as_ref().and_then(|kept| kept.value.clone().ok())) {
            (Ok(Some(value)), _) => (Ok(Arc::new(value)), FRESH),
            (Ok(None), _) => (Err(LookupError::Unknown), NOTHING_FRESH),
            (Err(Failure::Faulty(reason)), _) => {
                tracing::warn!(reason, "an answer of the register cannot be used");
                (Err(LookupError::Unavailable(reason)), NOTHING_FRESH)
            }
            // Nobody can be asked: what is known serves on, and not each message waits to learn the same.
            (Err(Failure::Away(_)), Some(stale)) => (Ok(stale), RETRY_AFTER),
            (Err(Failure::Away(reason)), None) => return Err(LookupError::Unavailable(reason)),
        };
        let changed = self.changes.load(Ordering::Acquire) != changes;
        let kept = Arc::new(Kept {
            value,
            until: Instant::now() + fresh,
            stale: AtomicBool::new(changed),
            refreshing: AtomicBool::new(false),
        });
        self.kept.insert(key.clone(), kept.clone());
        kept.value.clone()
    }

    /// Marks what a change concerns; a name that was unknown may now exist.
    pub(crate) fn make_stale(&self, concerns: impl Fn(&T) -> bool) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        for (_, kept) in self.kept.iter() {
            if kept.value.as_ref().map_or(true, |value| concerns(value)) {
                kept.stale.store(true, Ordering::Release);
            }
        }
    }
}
