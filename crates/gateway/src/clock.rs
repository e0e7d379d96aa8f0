//! Time as gateways need it: a coarse monotonic clock for timeouts, and Unix time for expiry dates.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Interval at which the coarse clock advances and timeouts are checked.
pub const TICK_INTERVAL: Duration = Duration::from_millis(250);
const NEVER: u64 = u64::MAX;

/// Milliseconds since the role started, as of the last tick: precise enough for timeouts of seconds, and free to read.
#[derive(Debug)]
pub struct Clock {
    started: Instant,
    now: AtomicU64,
}

impl Clock {
    /// Creates a clock at zero.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { started: Instant::now(), now: AtomicU64::new(0) })
    }

    /// Advances the clock to the present.
    pub fn tick(&self) {
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(NEVER);
        self.now.store(elapsed, Ordering::Relaxed);
    }

    /// Returns the precise time since the role started, in nanoseconds.
    #[inline]
    pub fn precise_now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(NEVER)
    }

    /// Returns the instant of a precise time.
    pub fn instant(&self, precise: u64) -> Instant {
        self.started + Duration::from_nanos(precise)
    }

    /// Returns the time of the last tick, in milliseconds.
    #[inline]
    pub fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    /// Returns the time `after` from now, in milliseconds.
    #[inline]
    pub fn deadline(&self, after: Duration) -> u64 {
        self.now().saturating_add(u64::try_from(after.as_millis()).unwrap_or(NEVER))
    }
}

/// Returns Unix time in milliseconds.
#[inline]
pub fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
