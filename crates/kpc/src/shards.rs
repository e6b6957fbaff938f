//! A map with many locks.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash, RandomState};

use parking_lot::{Mutex, MutexGuard};

const SHARDS: usize = 64;

/// A map whose keys are spread over maps with a lock each, so that worker threads seldom wait for each other.
#[derive(Debug)]
pub(crate) struct Shards<K, V> {
    hasher: RandomState,
    maps: Box<[Mutex<HashMap<K, V>>]>,
}

impl<K: Hash + Eq, V> Shards<K, V> {
    pub(crate) fn new() -> Self {
        Self { hasher: RandomState::new(), maps: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    /// The map that holds the key, if any does, locked.
    pub(crate) fn lock<Q>(&self, key: &Q) -> MutexGuard<'_, HashMap<K, V>>
    where
        K: Borrow<Q>,
        Q: Hash + ?Sized,
    {
        let shards = self.maps.len() as u64;
        let index = usize::try_from(self.hasher.hash_one(key) % shards).unwrap_or(0);
        self.maps[index].lock()
    }

    /// Every map, locked one after the other.
    pub(crate) fn each(&self) -> impl Iterator<Item = MutexGuard<'_, HashMap<K, V>>> {
        self.maps.iter().map(Mutex::lock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_where_it_was_put() {
        let shards: Shards<String, usize> = Shards::new();
        for number in 0..1_000 {
            shards.lock(&number.to_string()).insert(number.to_string(), number);
        }
        assert_eq!(shards.each().map(|map| map.len()).sum::<usize>(), 1_000);
        assert_eq!(shards.lock("77").get("77"), Some(&77));
        assert!(shards.each().all(|map| map.len() < 100));
    }
}
