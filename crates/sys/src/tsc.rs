//! Frequency of the host's time stamp counter (TSC), which an emulated guest cannot measure reliably.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Measures the TSC frequency in kHz against `CLOCK_MONOTONIC_RAW` over `period`.
pub fn measure_khz(period: Duration) -> u64 {
    let (tsc_before, clock_before) = read_clocks();
    std::thread::sleep(period);
    let (tsc_after, clock_after) = read_clocks();
    let nanos = clock_after.saturating_sub(clock_before).max(1);
    let ticks = u128::from(tsc_after.wrapping_sub(tsc_before));
    u64::try_from(ticks * 1_000_000 / u128::from(nanos)).unwrap_or(0)
}

/// Reads both clocks at one moment: of several samples, the one with the shortest time between its readings.
fn read_clocks() -> (u64, u64) {
    let sample = || {
        let before = nanos();
        // SAFETY: RDTSC has no preconditions on x86_64; Rigbox supports no other architecture.
        let tsc = unsafe { core::arch::x86_64::_rdtsc() };
        let after = nanos();
        (after.saturating_sub(before), tsc, before)
    };
    let (_, tsc, clock) = (0..16).map(|_| sample()).min().unwrap_or_default();
    (tsc, clock)
}

fn nanos() -> u64 {
    let now = clock_gettime(ClockId::MonotonicRaw);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn repeated_measurements_agree() {
        let first = super::measure_khz(std::time::Duration::from_millis(20));
        let second = super::measure_khz(std::time::Duration::from_millis(20));
        assert!(first.abs_diff(second) < first / 100, "{first} and {second} kHz");
    }
}
