//! Pool whose holders give way: when all places are taken, the holder that has been idle longest is evicted for a new one. Clients that come
//! from any number of addresses and let a role wait thus take no place from one that sends its request at once.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::{Bounds, Place, Refused, Shares};

/// Number of holders that one search keeps: those idle longest, the next to be evicted.
const SEARCH_RESULTS: usize = 256;
/// Time between two searches, per holder: a search looks at all of them, and must not be what a role does most.
const SEARCH_PAUSE: Duration = Duration::from_nanos(250);

/// Holder of a place that can be evicted.
pub trait Evict {
    /// Returns since when the holder has been idle, that is, waiting for its client; `None` if it is not.
    fn idle_since(&self) -> Option<Instant>;

    /// Ends the holder if it is still idle. Returns whether it was.
    fn evict(&self) -> bool;
}

impl<H: Evict> Evict for Arc<H> {
    fn idle_since(&self) -> Option<Instant> {
        (**self).idle_since()
    }

    fn evict(&self) -> bool {
        (**self).evict()
    }
}

/// Pool of places whose holders give way. Clones are handles of the same pool.
pub struct EvictingShares<K, H> {
    places: Shares<K>,
    holders: Arc<Mutex<Holders<H>>>,
}

struct Holders<H> {
    entries: HashMap<u64, Entry<H>>,
    next_key: u64,
    /// Most entries there were since [`EvictingShares::has_fallen`] last was true.
    peak: usize,
    /// Found by the last search; the one that is idle longest is the last.
    candidates: Vec<(Instant, u64)>,
    /// Time of the next search.
    search_at: Instant,
    /// Callers that wait for a place.
    waiting: usize,
    /// Evicted holders that still have their places.
    leaving: usize,
}

struct Entry<H> {
    holder: H,
    is_leaving: bool,
}

/// Outcome of an attempt to evict a holder.
#[derive(Debug, PartialEq, Eq)]
enum Eviction {
    /// A place will be free.
    Underway,
    /// All holders are busy.
    AllBusy,
    /// The last search was too short a time ago.
    Later(Instant),
}

impl<K: Eq + Hash + Clone, H: Evict> EvictingShares<K, H> {
    /// Creates a pool.
    pub fn new(bounds: Bounds) -> Self {
        let holders = Holders {
            entries: HashMap::new(),
            next_key: 0,
            peak: 0,
            candidates: Vec::new(),
            search_at: Instant::now(),
            waiting: 0,
            leaving: 0,
        };
        Self { places: Shares::new(bounds), holders: Arc::new(Mutex::new(holders)) }
    }

    /// Takes a place for `key`. If there is none, the holder that has been idle longest is evicted, and its place awaited.
    ///
    /// # Errors
    /// [`Refused::Share`] if the key has its share, [`Refused::Full`] if no holder is idle.
    pub async fn take(&self, key: K, holder: H) -> Result<Held<K, H>, Refused> {
        let place = match self.places.take(key.clone()) {
            Err(Refused::Full(total)) => self.take_after_eviction(key, total).await?,
            taken => taken?,
        };
        let mut holders = self.holders();
        let number = holders.next_key;
        holders.next_key += 1;
        holders.entries.insert(number, Entry { holder, is_leaving: false });
        holders.peak = holders.peak.max(holders.entries.len());
        drop(holders);
        Ok(Held { holders: Arc::clone(&self.holders), number, place: Some(place) })
    }

    async fn take_after_eviction(&self, key: K, total: usize) -> Result<Place<K>, Refused> {
        let _waiting = Waiting::new(&self.holders);
        loop {
            let freed = self.places.pool.freed.notified();
            tokio::pin!(freed);
            // Registered before the attempt, so that a place that is freed in between is not missed.
            freed.as_mut().enable();
            match self.places.take(key.clone()) {
                Err(Refused::Full(_)) => {}
                taken => return taken,
            }
            let eviction = self.holders().evict_for_waiting();
            match eviction {
                Eviction::Underway => freed.await,
                Eviction::AllBusy => return Err(Refused::Full(total)),
                Eviction::Later(at) => {
                    let _ = tokio::time::timeout_at(at.into(), freed).await;
                }
            }
        }
    }
}

impl<K, H> EvictingShares<K, H> {
    /// Calls `visit` with each holder.
    pub fn for_each(&self, visit: impl FnMut(&H)) {
        self.holders().entries.values().map(|entry| &entry.holder).for_each(visit);
    }

    /// Returns whether no place is taken.
    pub fn is_empty(&self) -> bool {
        self.holders().entries.is_empty()
    }

    /// Returns whether at least `least` places, and a quarter, have been freed since most were taken. If so, counting starts anew.
    pub fn has_fallen(&self, least: usize) -> bool {
        let mut holders = self.holders();
        let fallen = holders.peak - holders.entries.len() >= least.max(holders.peak / 4);
        if fallen {
            holders.peak = holders.entries.len();
        }
        fallen
    }

    fn holders(&self) -> MutexGuard<'_, Holders<H>> {
        lock(&self.holders)
    }
}

fn lock<H>(holders: &Mutex<Holders<H>>) -> MutexGuard<'_, Holders<H>> {
    holders.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<H: Evict> Holders<H> {
    /// Evicts holders until as many places will be free as are waited for.
    fn evict_for_waiting(&mut self) -> Eviction {
        while self.leaving < self.waiting {
            match self.candidates.pop() {
                Some((since, number)) => self.evict(since, number),
                None if self.search_at > Instant::now() => {
                    return if self.leaving > 0 {
                        Eviction::Underway
                    } else {
                        Eviction::Later(self.search_at)
                    };
                }
                None => {
                    self.search();
                    if self.candidates.is_empty() {
                        return if self.leaving > 0 { Eviction::Underway } else { Eviction::AllBusy };
                    }
                }
            }
        }
        Eviction::Underway
    }

    /// Evicts a candidate, unless it has been busy or has ended since the search.
    fn evict(&mut self, since: Instant, number: u64) {
        if let Some(entry) = self.entries.get_mut(&number)
            && !entry.is_leaving
            && entry.holder.idle_since() == Some(since)
            && entry.holder.evict()
        {
            entry.is_leaving = true;
            self.leaving += 1;
        }
    }

    /// Looks for the holders that have been idle longest. Those that become idle later come after them, so the order is exact.
    fn search(&mut self) {
        let idle = self.entries.iter().filter(|(_, entry)| !entry.is_leaving);
        self.candidates = idle.filter_map(|(key, entry)| Some((entry.holder.idle_since()?, *key))).collect();
        if self.candidates.len() > SEARCH_RESULTS {
            self.candidates.select_nth_unstable(SEARCH_RESULTS);
            self.candidates.truncate(SEARCH_RESULTS);
        }
        self.candidates.sort_unstable_by(|a, b| b.cmp(a));
        let holders = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        self.search_at = Instant::now() + SEARCH_PAUSE * holders;
    }
}

impl<K, H> Clone for EvictingShares<K, H> {
    fn clone(&self) -> Self {
        Self { places: self.places.clone(), holders: Arc::clone(&self.holders) }
    }
}

impl<K, H> fmt::Debug for EvictingShares<K, H> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Evicting{:?}", self.places)
    }
}

/// Counts a caller that waits for a place.
struct Waiting<'a, H>(&'a Mutex<Holders<H>>);

impl<'a, H> Waiting<'a, H> {
    fn new(holders: &'a Mutex<Holders<H>>) -> Self {
        lock(holders).waiting += 1;
        Self(holders)
    }
}

impl<H> Drop for Waiting<'_, H> {
    fn drop(&mut self) {
        let mut holders = lock(self.0);
        holders.waiting = holders.waiting.saturating_sub(1);
    }
}

/// Place of a holder, free again when dropped.
pub struct Held<K: Eq + Hash, H> {
    holders: Arc<Mutex<Holders<H>>>,
    number: u64,
    place: Option<Place<K>>,
}

impl<K: Eq + Hash, H> Drop for Held<K, H> {
    fn drop(&mut self) {
        let mut holders = lock(&self.holders);
        let entry = holders.entries.remove(&self.number);
        if entry.as_ref().is_some_and(|entry| entry.is_leaving) {
            holders.leaving = holders.leaving.saturating_sub(1);
        }
        // Within the lock: who looks in between would evict one more for the place that is about to be free.
        drop(self.place.take());
        drop(holders);
        // Outside of the lock, whatever the holder does when dropped.
        drop(entry);
    }
}

impl<K: Eq + Hash, H> fmt::Debug for Held<K, H> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Held")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    /// Connection that is idle since a time, if it is.
    #[derive(Default)]
    struct Connection {
        since: Option<Instant>,
        evicted: AtomicBool,
        evictions: Arc<AtomicUsize>,
    }

    impl Evict for Connection {
        fn idle_since(&self) -> Option<Instant> {
            self.since
        }

        fn evict(&self) -> bool {
            self.evicted.store(true, Ordering::SeqCst);
            self.evictions.fetch_add(1, Ordering::SeqCst);
            true
        }
    }

    type Pool = EvictingShares<usize, Arc<Connection>>;

    fn idle(since: Instant) -> Arc<Connection> {
        Arc::new(Connection { since: Some(since), ..Connection::default() })
    }

    async fn soon<T>(future: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(10), future).await.unwrap()
    }

    #[tokio::test]
    async fn longest_idle_gives_way_and_busy_ones_never() {
        let pool = Pool::new(Bounds { total: 3, per_key: 1 });
        let now = Instant::now();
        let (busy, newer, older) =
            (Arc::<Connection>::default(), idle(now), idle(now - Duration::from_secs(1)));
        let _busy = pool.take(1, Arc::clone(&busy)).await.unwrap();
        let newer_place = pool.take(2, Arc::clone(&newer)).await.unwrap();
        let older_place = pool.take(3, Arc::clone(&older)).await.unwrap();
        let mut newcomers = Vec::new();
        for (evicted, place, newcomer) in [(&older, older_place, 4), (&newer, newer_place, 5)] {
            let waiting = tokio::spawn({
                let pool = pool.clone();
                async move { pool.take(newcomer, Arc::default()).await }
            });
            soon(async {
                while !evicted.evicted.load(Ordering::SeqCst) {
                    tokio::task::yield_now().await;
                }
            })
            .await;
            assert!(!waiting.is_finished(), "the evicted one still has its place");
            drop(place);
            newcomers.push(soon(waiting).await.unwrap().unwrap());
        }
        assert_eq!(soon(pool.take(6, Arc::default())).await.unwrap_err(), Refused::Full(3));
        assert!(!busy.evicted.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn nobody_gives_way_to_a_key_that_has_its_share() {
        let pool = Pool::new(Bounds { total: 2, per_key: 1 });
        let other = idle(Instant::now());
        let _places = (
            pool.take(1, idle(Instant::now())).await.unwrap(),
            pool.take(2, Arc::clone(&other)).await.unwrap(),
        );
        assert_eq!(soon(pool.take(1, Arc::default())).await.unwrap_err(), Refused::Share(1));
        assert!(!other.evicted.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn order_is_exact_over_several_searches() {
        const HOLDERS: usize = 3 * SEARCH_RESULTS;
        let pool = Pool::new(Bounds { total: HOLDERS, per_key: HOLDERS });
        let now = Instant::now();
        // In no order: 7 and the number of holders have no common factor.
        let ages = (0..HOLDERS).map(|number| number * 7 % HOLDERS);
        let (mut held, mut newcomers) = (Vec::new(), Vec::new());
        for age in ages {
            let connection = idle(now - Duration::from_millis(age as u64));
            held.push((age, Arc::clone(&connection), pool.take(0, connection).await.unwrap()));
        }
        for expected in (0..HOLDERS).rev() {
            let newcomer = pool.take(1, Arc::default());
            let mut newcomer = std::pin::pin!(newcomer);
            let evicted = soon(std::future::poll_fn(|context| {
                assert!(newcomer.as_mut().poll(context).is_pending());
                let evicted = held.iter().position(|(_, one, _)| one.evicted.load(Ordering::SeqCst));
                evicted.map_or_else(
                    || {
                        context.waker().wake_by_ref();
                        std::task::Poll::Pending
                    },
                    std::task::Poll::Ready,
                )
            }))
            .await;
            let (age, _, place) = held.swap_remove(evicted);
            assert_eq!(age, expected);
            drop(place);
            newcomers.push(soon(newcomer).await.unwrap());
        }
    }

    #[tokio::test]
    async fn as_many_are_evicted_as_places_are_waited_for() {
        const NEWCOMERS: usize = 10;
        let pool = Pool::new(Bounds { total: 100, per_key: 100 });
        let evictions = Arc::<AtomicUsize>::default();
        let mut held = Vec::new();
        for _ in 0..100 {
            let since = Some(Instant::now());
            let connection = Connection { since, evictions: Arc::clone(&evictions), ..Connection::default() };
            let connection = Arc::new(connection);
            held.push((Arc::clone(&connection), pool.take(0, connection).await.unwrap()));
        }
        let newcomers: Vec<_> = (0..NEWCOMERS)
            .map(|_| {
                let pool = pool.clone();
                tokio::spawn(async move { pool.take(1, Arc::default()).await.unwrap() })
            })
            .collect();
        soon(async {
            while evictions.load(Ordering::SeqCst) < NEWCOMERS {
                tokio::task::yield_now().await;
            }
        })
        .await;
        // One at a time, so that the others are woken in vain.
        while let Some(place) = held.iter().position(|(one, _)| one.evicted.load(Ordering::SeqCst)) {
            drop(held.swap_remove(place));
            for _ in 0..2 * NEWCOMERS {
                tokio::task::yield_now().await;
            }
        }
        for newcomer in newcomers {
            soon(newcomer).await.unwrap();
        }
        assert_eq!(evictions.load(Ordering::SeqCst), NEWCOMERS);
    }
}
