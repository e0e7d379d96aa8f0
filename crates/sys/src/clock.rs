//! Clock of this machine that processes can compare.

use std::time::Duration;

/// Returns the time since the machine has booted, asleep or not, the same for all its processes. Nobody can set it (`CLOCK_BOOTTIME`).
#[inline]
pub fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default())
}
