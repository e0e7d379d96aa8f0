//! Quota of outgoing emails: how many are being sent at once, and how many one key, an address or a user, causes.

use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::Clock;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Time after which one more email of a key is allowed.
const INTERVAL: Duration = Duration::from_mins(3);
/// Maximum number of keys with a tracked rate; beyond it, idle ones are removed.
const MAX_TRACKED_KEYS: usize = 10_000;

/// Refusal of an email.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The key has caused too many; the next is allowed after this many seconds.
    TooMany(u32),
    /// Too many are being sent.
    Busy,
}

/// The quota.
pub(crate) struct EmailQuota<K: Hash + Eq + Clone> {
    pending: Arc<Semaphore>,
    by_key: DefaultKeyedRateLimiter<K>,
}

impl<K: Hash + Eq + Clone> EmailQuota<K> {
    /// Creates a quota of `burst` emails of one key at once, then one every three minutes, and `max_pending` being sent at the same time.
    pub(crate) fn new(burst: NonZeroU32, max_pending: usize) -> Self {
        let quota = Quota::with_period(INTERVAL).unwrap_or(Quota::per_hour(burst)).allow_burst(burst);
        #[expect(
            clippy::disallowed_methods,
            reason = "bound: emails being sent at once; each key has its rate before"
        )]
        let pending = Arc::new(Semaphore::new(max_pending));
        Self { pending, by_key: RateLimiter::keyed(quota) }
    }

    /// Counts an email of `key`. It may be sent while the permit is held.
    pub(crate) fn take(&self, key: &K) -> Result<OwnedSemaphorePermit, Refused> {
        if self.by_key.len() >= MAX_TRACKED_KEYS {
            self.by_key.retain_recent();
        }
        self.by_key.check_key(key).map_err(|not_until| {
            let wait = not_until.wait_time_from(self.by_key.clock().now());
            Refused::TooMany(u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1))
        })?;
        Arc::clone(&self.pending).try_acquire_owned().map_err(|_| Refused::Busy)
    }
}
