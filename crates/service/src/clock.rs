//! Clock of days, for what a simulation does not run; the rest asks the store. Domain rules take time as a value.

use rigbox_core::time::Timestamp;
use rigbox_store::Clock;

/// Returns the current time.
pub fn now() -> Timestamp {
    Clock::default().now()
}
