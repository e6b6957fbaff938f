//! How many there may be of something at once, in all and of each to whom it belongs.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Counts places in all and by key.
#[derive(Debug)]
pub(crate) struct Places<K: Eq + Hash> {
    all: Arc<Semaphore>,
    per_key_max: usize,
    /// Only keys that have some.
    taken: Arc<Mutex<HashMap<K, usize>>>,
}

/// A place; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place<K: Eq + Hash> {
    taken: Arc<Mutex<HashMap<K, usize>>>,
    key: K,
    _permit: OwnedSemaphorePermit,
}

impl<K: Eq + Hash + Clone> Places<K> {
    /// So many in all, and so many for each key.
    pub(crate) fn new(max: usize, per_key_max: usize) -> Self {
        let all = Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS)));
        Self { all, per_key_max, taken: Arc::default() }
    }

    /// Takes a place; none when there is no more, or the key has as many as it may.
    pub(crate) fn enter(&self, key: K) -> Option<Place<K>> {
        let permit = self.all.clone().try_acquire_owned().ok()?;
        let mut taken = self.taken.lock();
        let count = taken.get(&key).copied().unwrap_or(0);
        if count >= self.per_key_max {
            return None;
        }
        taken.insert(key.clone(), count + 1);
        Some(Place { taken: self.taken.clone(), key, _permit: permit })
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        if let Some(count) = taken.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_all_and_by_key_and_given_back() {
        let places = Places::new(3, 2);
        let first = places.enter("one").unwrap();
        let second = places.enter("one").unwrap();
        assert!(places.enter("one").is_none());
        let third = places.enter("two").unwrap();
        assert!(places.enter("two").is_none(), "there are no more");
        drop((first, third));
        let _fourth = places.enter("one").unwrap();
        drop(second);
        assert!(places.enter("two").is_some());
        assert_eq!(places.taken.lock().len(), 1);
    }
}
