//! Delays between retries of a request.

use std::time::Duration;

const INITIAL_DELAY: Duration = Duration::from_millis(250);
const MAX_DELAY: Duration = Duration::from_secs(8);
/// Limit for the sum of delays of one request.
const TOTAL_DELAY: Duration = Duration::from_secs(60);

/// Delays of one request.
pub(super) struct Backoff {
    next: Duration,
    left: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { next: INITIAL_DELAY, left: TOTAL_DELAY }
    }

    /// Returns the delay before the next retry, or `None` when no retry is left.
    pub(super) fn next_delay(&mut self, retry_after: Option<Duration>) -> Option<Duration> {
        // At least what the server asks for, and never zero, so that retries end.
        let length = retry_after.unwrap_or_default().max(self.next);
        self.left = self.left.checked_sub(length)?;
        self.next = (self.next * 2).min(MAX_DELAY);
        Some(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_respected() {
        let mut backoff = Backoff::new();
        assert_eq!(backoff.next_delay(Some(Duration::from_secs(5))), Some(Duration::from_secs(5)));
        assert_eq!(backoff.next_delay(None), Some(Duration::from_millis(500)));
        assert_eq!(backoff.next_delay(Some(Duration::from_secs(3600))), None);
    }

    #[test]
    fn retries_end() {
        for retry_after in [None, Some(Duration::ZERO), Some(Duration::from_secs(2))] {
            let mut backoff = Backoff::new();
            let retries = std::iter::from_fn(|| backoff.next_delay(retry_after)).count();
            assert!((5..40).contains(&retries), "{retry_after:?}: {retries}");
        }
    }
}
