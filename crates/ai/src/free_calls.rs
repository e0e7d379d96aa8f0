//! Limit of calls that use nothing: counts of tokens, and calls that a provider refuses. Money bounds all others, and each leaves a record.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rigbox_core::ids::WorkspaceId;

use crate::error::{CallError, ErrorKind};

/// Minutes whose calls may come at once.
const BURST_MINUTES: u32 = 10;
const MINUTE: Duration = Duration::from_secs(60);

/// Calls that used nothing, by workspace, as GCRA (ITU-T I.371) counts: the time until which a workspace has used up its rate. They are
/// counted once they are over, when it is known that they have used nothing.
pub(crate) struct FreeCalls {
    per_minute: NonZeroU32,
    used: Mutex<Used>,
}

struct Used {
    until: HashMap<WorkspaceId, Instant>,
    cleaned: Instant,
}

impl FreeCalls {
    /// Creates the limit, with `per_minute` calls of each workspace, after a burst of ten times as many.
    pub(crate) fn new(per_minute: NonZeroU32) -> Self {
        let used = Used { until: HashMap::new(), cleaned: Instant::now() };
        Self { per_minute, used: Mutex::new(used) }
    }

    /// Checks that a workspace may make a call at `now`.
    ///
    /// # Errors
    /// It has made too many that used nothing.
    pub(crate) fn check(&self, workspace: &WorkspaceId, now: Instant) -> Result<(), CallError> {
        let burst = MINUTE * BURST_MINUTES;
        match self.used().until.get(workspace) {
            Some(until) if until.saturating_duration_since(now) > burst => Err(CallError::new(
                ErrorKind::RateLimit,
                format!(
                    "This workspace has made too many AI calls that used nothing, such as counts of tokens or calls that failed: {} \
                     a minute are allowed. Try again later.",
                    self.per_minute
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Counts a call that used nothing.
    pub(crate) fn count(&self, workspace: &WorkspaceId, now: Instant) {
        let mut used = self.used();
        if now.saturating_duration_since(used.cleaned) >= MINUTE {
            used.until.retain(|_, until| *until > now);
            used.cleaned = now;
        }
        let until = used.until.entry(workspace.clone()).or_insert(now);
        *until = (*until).max(now) + MINUTE / self.per_minute.get();
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_beyond_the_burst_come_at_the_rate() {
        let free = FreeCalls::new(NonZeroU32::new(6).unwrap());
        let [one, other] = [1, 2].map(|n| WorkspaceId::from_random([n; 5]));
        let start = Instant::now();
        let mut made = 0;
        while free.check(&one, start).is_ok() {
            free.count(&one, start);
            made += 1;
        }
        assert_eq!(made, 61);
        assert!(free.check(&other, start).is_ok());
        // One more each 10 s.
        assert!(free.check(&one, start + Duration::from_secs(9)).is_err());
        assert!(free.check(&one, start + Duration::from_secs(10)).is_ok());
        free.count(&one, start + Duration::from_secs(10));
        assert!(free.check(&one, start + Duration::from_secs(10)).is_err());
        // An idle workspace takes no memory.
        let later = start + Duration::from_hours(1);
        free.count(&other, later);
        assert_eq!(free.used().until.len(), 1);
    }
}
