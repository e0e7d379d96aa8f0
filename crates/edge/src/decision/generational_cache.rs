//! Bounded cache that keeps what is used: two generations, of which the older is dropped when the younger is full.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, PoisonError, RwLock};

/// Cache of two generations.
#[derive(Debug)]
pub(crate) struct GenerationalCache<K, V> {
    generations: RwLock<Generations<K, V>>,
    /// Maximum size of one generation.
    max: usize,
}

#[derive(Debug)]
struct Generations<K, V> {
    young: HashMap<K, Arc<V>>,
    old: HashMap<K, Arc<V>>,
}

impl<K: Hash + Eq + Clone, V> GenerationalCache<K, V> {
    /// Creates a cache that keeps at least the `max` most recently used entries, and at most twice as many.
    pub(crate) fn new(max: usize) -> Self {
        let generations = Generations { young: HashMap::new(), old: HashMap::new() };
        Self { generations: RwLock::new(generations), max }
    }

    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<Arc<V>>
    where
        K: Borrow<Q>,
    {
        {
            let generations = self.generations.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(value) = generations.young.get(key) {
                return Some(Arc::clone(value));
            }
            if !generations.old.contains_key(key) {
                return None;
            }
        }
        let mut generations = self.generations.write().unwrap_or_else(PoisonError::into_inner);
        let (key, value) = generations.old.remove_entry(key)?;
        self.put(&mut generations, key, Arc::clone(&value));
        Some(value)
    }

    pub(crate) fn insert(&self, key: K, value: Arc<V>) {
        let mut generations = self.generations.write().unwrap_or_else(PoisonError::into_inner);
        generations.old.remove(&key);
        self.put(&mut generations, key, value);
    }

    fn put(&self, generations: &mut Generations<K, V>, key: K, value: Arc<V>) {
        if generations.young.len() >= self.max {
            generations.old = std::mem::take(&mut generations.young);
        }
        generations.young.insert(key, value);
    }

    pub(crate) fn clear(&self) {
        let mut generations = self.generations.write().unwrap_or_else(PoisonError::into_inner);
        generations.young.clear();
        generations.old.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn used_entries_stay_and_the_size_is_bounded() {
        let cache = GenerationalCache::new(10);
        cache.insert(0, Arc::new(0));
        for key in 1..1000 {
            cache.insert(key, Arc::new(key));
            assert_eq!(cache.get(&0).as_deref(), Some(&0), "{key}");
        }
        let generations = cache.generations.read().unwrap();
        assert!(generations.young.len() + generations.old.len() <= 20);
        drop(generations);
        assert_eq!(cache.get(&1), None);
        cache.clear();
        assert_eq!(cache.get(&0), None);
    }
}
