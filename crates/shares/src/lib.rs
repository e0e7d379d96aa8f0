//! Bounded pools with a share per tenant: no workspace, user or address takes all places of a pool that others need too.
//!
//! A pool has a bound for all and a smaller one per key. A [`Place`] frees itself when dropped. A refusal says which of the two bounds was
//! reached, because the remedy differs: who has used up its own share has to end something, and who meets a full pool may only try again.

mod address;
mod eviction;

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

pub use address::AddressBlock;
pub use eviction::{Evict, EvictingShares, Held};

/// Bounds of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Places in all.
    pub total: usize,
    /// Places of one key.
    pub per_key: usize,
}

/// Refusal of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The key has all places of its share.
    #[error("all {0} places of this share are taken")]
    Share(usize),
    /// The pool has no free place.
    #[error("all {0} places are taken")]
    Full(usize),
}

/// Pool of places. Clones are handles of the same pool.
pub struct Shares<K> {
    pool: Arc<Pool<K>>,
}

struct Pool<K> {
    bounds: Bounds,
    taken: Mutex<Taken<K>>,
    /// Wakes those that wait, whenever a place is freed.
    freed: Notify,
}

struct Taken<K> {
    total: usize,
    /// Keys without a place are absent, so that the map is never larger than the pool.
    by_key: HashMap<K, usize>,
}

impl<K: Eq + Hash + Clone> Shares<K> {
    /// Creates a pool.
    pub fn new(bounds: Bounds) -> Self {
        let taken = Mutex::new(Taken { total: 0, by_key: HashMap::new() });
        Self { pool: Arc::new(Pool { bounds, taken, freed: Notify::new() }) }
    }

    /// Takes a place for `key`.
    ///
    /// # Errors
    /// [`Refused`], if there is none. That the key has its share comes first: then another's place would be of no use to it.
    pub fn take(&self, key: K) -> Result<Place<K>, Refused> {
        self.take_within(key, self.pool.bounds.per_key)
    }

    /// Takes a place for `key`, whose own share may be smaller than that of others.
    ///
    /// # Errors
    /// [`Refused`], if there is none.
    pub fn take_within(&self, key: K, share: usize) -> Result<Place<K>, Refused> {
        let Bounds { total, per_key } = self.pool.bounds;
        let per_key = share.min(per_key);
        let mut taken = self.pool.taken();
        let own = taken.by_key.get(&key).copied().unwrap_or_default();
        if own >= per_key {
            return Err(Refused::Share(per_key));
        }
        if taken.total >= total {
            return Err(Refused::Full(total));
        }
        taken.by_key.insert(key.clone(), own + 1);
        taken.total += 1;
        Ok(Place { pool: Arc::clone(&self.pool), key })
    }

    /// Takes a place for `key`, and waits until there is one. The caller sets the time limit.
    pub async fn wait(&self, key: K) -> Place<K> {
        loop {
            let freed = self.pool.freed.notified();
            tokio::pin!(freed);
            // Registered before the attempt, so that a place that is freed in between is not missed.
            freed.as_mut().enable();
            if let Ok(place) = self.take(key.clone()) {
                return place;
            }
            freed.await;
        }
    }
}

impl<K> Pool<K> {
    fn taken(&self) -> MutexGuard<'_, Taken<K>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K> Clone for Shares<K> {
    fn clone(&self) -> Self {
        Self { pool: Arc::clone(&self.pool) }
    }
}

impl<K> fmt::Debug for Shares<K> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bounds { total, per_key } = self.pool.bounds;
        write!(formatter, "Shares({} of {total} taken, {per_key} per key)", self.pool.taken().total)
    }
}

/// Place in a pool, free again when dropped.
pub struct Place<K: Eq + Hash> {
    pool: Arc<Pool<K>>,
    key: K,
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.pool.taken();
        taken.total = taken.total.saturating_sub(1);
        match taken.by_key.get_mut(&self.key) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(taken.by_key.remove(&self.key)),
        }
        drop(taken);
        self.pool.freed.notify_waiters();
    }
}

impl<K: Eq + Hash> fmt::Debug for Place<K> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Place")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn pool() -> Shares<&'static str> {
        Shares::new(Bounds { total: 3, per_key: 2 })
    }

    #[test]
    fn one_key_leaves_places_to_others() {
        let pool = pool();
        let held = [pool.take("a").unwrap(), pool.take("a").unwrap()];
        assert_eq!(pool.take("a").unwrap_err(), Refused::Share(2));
        let other = pool.take("b").unwrap();
        assert_eq!(pool.take("c").unwrap_err(), Refused::Full(3));
        // Whose share is taken is told so, although the pool is full too.
        assert_eq!(pool.take("a").unwrap_err(), Refused::Share(2));
        drop(other);
        pool.take("c").unwrap();
        drop(held);
    }

    #[test]
    fn smaller_share_of_one_key_counts_and_a_larger_one_does_not() {
        let pool = pool();
        let _held = pool.take_within("a", 1).unwrap();
        assert_eq!(pool.take_within("a", 1).unwrap_err(), Refused::Share(1));
        let _more = pool.take_within("a", 3).unwrap();
        assert_eq!(pool.take_within("a", 3).unwrap_err(), Refused::Share(2));
    }

    #[test]
    fn dropped_places_are_free_and_their_keys_forgotten() {
        let pool = pool();
        for _ in 0..10 {
            let (_a, _b) = (pool.take("a").unwrap(), pool.take("b").unwrap());
        }
        assert_eq!(format!("{pool:?}"), "Shares(0 of 3 taken, 2 per key)");
        assert!(pool.pool.taken().by_key.is_empty());
    }

    #[tokio::test]
    async fn who_waits_gets_the_next_place_of_its_share() {
        let pool = pool();
        let (first, _second) = (pool.take("a").unwrap(), pool.take("a").unwrap());
        let waiting = tokio::spawn({
            let pool = pool.clone();
            async move { pool.wait("a").await }
        });
        tokio::task::yield_now().await;
        // A place that the share does not allow is no place for it.
        assert!(!waiting.is_finished());
        drop(first);
        tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap();
    }
}
