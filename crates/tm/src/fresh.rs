//! What was read from the tables and may be used again for a while.

use std::future::Future;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

/// How many values are kept.
const ENTRIES_MAX: usize = 10_000;
/// How long a value is used when nobody says that it has changed. Whoever changes something says so, but what was
/// said may be lost while NATS is away.
const AGE_MAX: Duration = Duration::from_secs(10);

/// A bounded memory of values that are forgotten all at once when anything changes: changes are rare.
pub(crate) struct Fresh<K, V> {
    entries: Cache<K, Entry<V>>,
    generation: AtomicU64,
    age_max: Duration,
}

#[derive(Clone)]
struct Entry<V> {
    value: V,
    /// As it was before the value was read, so that a change during the reading makes it stale.
    generation: u64,
    read_at: Instant,
}

impl<K: Clone + Eq + Hash, V: Clone> Fresh<K, V> {
    pub(crate) fn new() -> Self {
        Self { entries: Cache::new(ENTRIES_MAX), generation: AtomicU64::new(0), age_max: AGE_MAX }
    }

    /// The value that is kept, else the one that is read.
    pub(crate) async fn get<E>(&self, key: &K, read: impl Future<Output = Result<V, E>>) -> Result<V, E> {
        let generation = self.generation.load(Ordering::Acquire);
        let kept = self.entries.get(key);
        let kept =
            kept.filter(|entry| entry.generation == generation && entry.read_at.elapsed() < self.age_max);
        if let Some(entry) = kept {
            return Ok(entry.value);
        }
        let read_at = Instant::now();
        let value = read.await?;
        self.entries.insert(key.clone(), Entry { value: value.clone(), generation, read_at });
        Ok(value)
    }

    /// Forgets one value.
    pub(crate) fn forget_one(&self, key: &K) {
        self.entries.remove(key);
    }

    /// Forgets all values, also those that are being read.
    pub(crate) fn forget(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn get(fresh: &Fresh<u8, u8>, value: u8) -> u8 {
        fresh.get(&1, async { Ok::<u8, ()>(value) }).await.unwrap()
    }

    #[tokio::test]
    async fn a_value_is_kept_until_something_changes() {
        let fresh = Fresh::new();
        assert_eq!(get(&fresh, 1).await, 1);
        assert_eq!(get(&fresh, 2).await, 1);
        fresh.forget();
        assert_eq!(get(&fresh, 3).await, 3);
        fresh.forget_one(&1);
        assert_eq!(get(&fresh, 4).await, 4);
    }

    #[tokio::test]
    async fn a_value_that_changed_while_it_was_read_is_not_kept() {
        let fresh = Fresh::new();
        let read = async {
            fresh.forget();
            Ok::<u8, ()>(1)
        };
        assert_eq!(fresh.get(&1, read).await, Ok(1));
        assert_eq!(get(&fresh, 2).await, 2);
    }

    #[tokio::test]
    async fn a_value_grows_old_and_failures_are_not_kept() {
        let fresh = Fresh { age_max: Duration::ZERO, ..Fresh::new() };
        assert_eq!(fresh.get(&1, async { Err::<u8, u8>(7) }).await, Err(7));
        assert_eq!(get(&fresh, 1).await, 1);
        assert_eq!(get(&fresh, 2).await, 2);
    }
}
