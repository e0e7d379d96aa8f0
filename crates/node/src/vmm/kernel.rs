//! Kernel command line of guests, as far as it is the same under every monitor.

use std::time::Duration;

/// Time over which the host's TSC is measured.
const TSC_MEASUREMENT: Duration = Duration::from_millis(50);

/// Measures the frequency of the host's TSC.
pub(super) fn tsc_khz() -> u64 {
    rigbox_sys::tsc::measure_khz(TSC_MEASUREMENT)
}

/// Returns the common part. It contains the host's TSC frequency: on a busy host the guest's own calibration fails and the boot hangs.
pub(super) fn command_line(tsc_khz: u64) -> String {
    format!("console=ttyS0 quiet panic=-1 tsc_early_khz={tsc_khz} tsc=reliable no_timer_check")
}
