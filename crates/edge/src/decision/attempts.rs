//! Attempts with invalid credentials, by client. Whoever makes too many has only cached decisions for a while, so guesses neither go on at
//! the speed of the network nor keep control busy.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use rigbox_shares::AddressBlock;

/// Invalid credentials of a client a minute, after a burst: the sessions of an office behind one address may all have expired.
const QUOTA: Quota = quota(60, 200);
/// Maximum number of refused clients to remember; all are forgotten when there are more.
const MAX_REFUSED: usize = 10_000;

const fn quota(per_minute: u32, burst: u32) -> Quota {
    match (NonZeroU32::new(per_minute), NonZeroU32::new(burst)) {
        (Some(per_minute), Some(burst)) => Quota::per_minute(per_minute).allow_burst(burst),
        _ => Quota::per_minute(NonZeroU32::MIN),
    }
}

/// Clients that presented invalid credentials.
pub(crate) struct FailedAttempts {
    failures: DefaultKeyedRateLimiter<AddressBlock>,
    /// Clients over the rate, each until it may try again.
    refused: Mutex<HashMap<AddressBlock, Instant>>,
}

impl std::fmt::Debug for FailedAttempts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FailedAttempts(..)")
    }
}

impl FailedAttempts {
    pub(crate) fn new() -> Self {
        Self { failures: RateLimiter::keyed(QUOTA), refused: Mutex::default() }
    }

    /// Returns whether a client may present a credential that is not known yet.
    pub(crate) fn may_try(&self, client: AddressBlock) -> bool {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.get(&client).is_none_or(|until| *until <= Instant::now())
    }

    /// Records that a client's credential was invalid.
    pub(crate) fn failed(&self, client: AddressBlock) {
        let Err(not_until) = self.failures.check_key(&client) else { return };
        let until = Instant::now() + not_until.wait_time_from(DefaultClock::default().now());
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.len() >= MAX_REFUSED {
            refused.clear();
        }
        refused.insert(client, until);
    }

    /// Forgets clients that may try again.
    pub(crate) fn remove_idle(&self) {
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
        let attempts = FailedAttempts::new();
        let [busy, other] = ["192.0.2.1", "192.0.2.2"]
            .map(|address| AddressBlock::from(address.parse::<std::net::IpAddr>().unwrap()));
        let mut tried = 0;
        while attempts.may_try(busy) && tried < 1_000 {
            attempts.failed(busy);
            tried += 1;
        }
        assert!((200..220).contains(&tried), "{tried}");
        assert!(attempts.may_try(other));
        attempts.remove_idle();
        assert!(!attempts.may_try(busy));
    }
}
