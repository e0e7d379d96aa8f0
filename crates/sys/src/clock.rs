//! Clock of this machine that processes can compare.

use std::time::Duration;

/// Returns the time since some point in the past, the same for all processes of this machine (`CLOCK_MONOTONIC`).
pub fn monotonic() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default())
}
