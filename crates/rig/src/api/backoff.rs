//! How long to wait before asking again, and when to give up.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(8);
/// All pauses of one request together.
const BUDGET: Duration = Duration::from_secs(60);

/// The pauses of one request.
pub(super) struct Backoff {
    next: Duration,
    left: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { next: FIRST, left: BUDGET }
    }

    /// The pause before the next try; none when that would be more than our patience.
    pub(super) fn pause(&mut self, retry_after: Option<Duration>) -> Option<Duration> {
        // Never shorter than the server wants, and never nothing, so that tries have an end.
        let length = retry_after.unwrap_or_default().max(self.next);
        self.left = self.left.checked_sub(length)?;
        self.next = (self.next * 2).min(LONGEST);
        Some(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_never_asked_earlier_than_it_wants() {
        let mut backoff = Backoff::new();
        assert_eq!(backoff.pause(Some(Duration::from_secs(5))), Some(Duration::from_secs(5)));
        assert_eq!(backoff.pause(None), Some(Duration::from_millis(500)));
        assert_eq!(backoff.pause(Some(Duration::from_secs(3600))), None);
    }

    #[test]
    fn tries_have_an_end() {
        for retry_after in [None, Some(Duration::ZERO), Some(Duration::from_secs(2))] {
            let mut backoff = Backoff::new();
            let tries = std::iter::from_fn(|| backoff.pause(retry_after)).count();
            assert!((5..40).contains(&tries), "{retry_after:?}: {tries}");
        }
    }
}
