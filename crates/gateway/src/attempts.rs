//! Attempts with invalid credentials, by client or by what they are for. Beyond a rate nothing more is asked of control for a while, so
//! guesses neither go on at the speed of the network nor keep control busy.

use std::collections::HashMap;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

pub use governor::Quota;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, RateLimiter};

/// Maximum number of refused keys to remember; all are forgotten when there are more.
const MAX_REFUSED: usize = 10_000;

/// Returns the rate of so many a minute, after a burst.
pub const fn quota(per_minute: u32, burst: u32) -> Quota {
    match (NonZeroU32::new(per_minute), NonZeroU32::new(burst)) {
        (Some(per_minute), Some(burst)) => Quota::per_minute(per_minute).allow_burst(burst),
        _ => Quota::per_minute(NonZeroU32::MIN),
    }
}

/// Invalid attempts, counted by a key.
pub struct FailedAttempts<K: Hash + Eq + Clone> {
    failures: DefaultKeyedRateLimiter<K>,
    /// Keys over the rate, each until it may try again.
    refused: Mutex<HashMap<K, Instant>>,
}

impl<K: Hash + Eq + Clone> std::fmt::Debug for FailedAttempts<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FailedAttempts(..)")
    }
}

impl<K: Hash + Eq + Clone> FailedAttempts<K> {
    /// Begins to count.
    #[must_use]
    pub fn new(quota: Quota) -> Self {
        Self { failures: RateLimiter::keyed(quota), refused: Mutex::default() }
    }

    /// Returns whether a key has attempts left.
    pub fn may_try(&self, key: &K) -> bool {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.get(key).is_none_or(|until| *until <= Instant::now())
    }

    /// Records an invalid attempt.
    pub fn failed(&self, key: K) {
        let Err(not_until) = self.failures.check_key(&key) else { return };
        let until = Instant::now() + not_until.wait_time_from(DefaultClock::default().now());
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.len() >= MAX_REFUSED {
            refused.clear();
        }
        refused.insert(key, until);
    }

    /// Forgets keys that may try again.
    pub fn remove_idle(&self) {
        self.failures.retain_recent();
        self.failures.shrink_to_fit();
        let now = Instant::now();
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, until| *until > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_that_guess_are_refused_and_no_others() {
        let attempts = FailedAttempts::new(quota(60, 200));
        let (busy, other) = (1, 2);
        let mut tried = 0;
        while attempts.may_try(&busy) && tried < 1_000 {
            attempts.failed(busy);
            tried += 1;
        }
        assert!((200..220).contains(&tried), "{tried}");
        assert!(attempts.may_try(&other));
        attempts.remove_idle();
        assert!(!attempts.may_try(&busy));
    }
}
