//! Clock, read in one place. Domain rules take time as a value.

use std::time::{SystemTime, UNIX_EPOCH};

use rigbox_core::time::Timestamp;

/// Returns the current time.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
