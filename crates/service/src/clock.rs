//! Clock of days, for what a simulation does not run; the rest asks the store. Domain rules take time as a value.

use std::time::Duration;

use rigbox_core::time::Timestamp;
use rigbox_store::Clock;

/// Returns the current time.
pub fn now() -> Timestamp {
    Clock::default().now()
}

/// Returns the time that was `by` before `now`.
pub(crate) fn earlier(now: Timestamp, by: Duration) -> Timestamp {
    let by = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_unix_ms(now.unix_ms().saturating_sub(by))
}
