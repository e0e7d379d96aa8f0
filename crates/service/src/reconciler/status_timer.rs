//! Time that workspaces have been in their status, by the monotonic clock: a change of the system's clock is no timeout. It counts from when
//! this process first saw the status, so that the time while it was down does not count.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use rigbox_core::ids::WorkspaceId;
use rigbox_core::lifecycle::Lifecycle;
use rigbox_core::status::Status;
use rigbox_core::time::Timestamp;
use tokio::time::Instant;

use super::lock;

/// Timer of all workspaces in a transient status.
#[derive(Debug, Default)]
pub(super) struct StatusTimer(Mutex<BTreeMap<WorkspaceId, Entered>>);

/// Status with the time at which it was entered, by which two stays in it differ.
#[derive(Debug, Clone, Copy)]
struct Entered {
    status: Status,
    since: Timestamp,
    seen_at: Instant,
}

impl StatusTimer {
    /// Returns how long the workspace has been in its status. Zero for a status that lasts.
    pub(super) fn elapsed(&self, id: &WorkspaceId, lifecycle: &Lifecycle, now: Instant) -> Duration {
        let mut entered = lock(&self.0);
        let Lifecycle { status, since, .. } = *lifecycle;
        if !status.is_transient() {
            entered.remove(id);
            return Duration::ZERO;
        }
        match entered.get(id) {
            Some(known) if (known.status, known.since) == (status, since) => {
                now.duration_since(known.seen_at)
            }
            _ => {
                entered.insert(id.clone(), Entered { status, since, seen_at: now });
                Duration::ZERO
            }
        }
    }

    /// Forgets a workspace that is gone, or whose time does not count yet.
    pub(super) fn forget(&self, id: &WorkspaceId) {
        lock(&self.0).remove(id);
    }
}

#[cfg(test)]
mod tests {
    use rigbox_core::lifecycle::{Disk, Observed, ReportOrder};
    use rigbox_core::status::Request;

    use super::*;

    #[test]
    fn each_stay_in_a_status_counts_by_itself() {
        let (timer, id) = (StatusTimer::default(), WorkspaceId::from_random([0; 5]));
        let (begin, at) = (Instant::now(), Timestamp::from_unix_ms);
        let seconds = Duration::from_secs;
        let elapsed = |life: &Lifecycle, s| timer.elapsed(&id, life, begin + seconds(s));
        let provisioning = Lifecycle::created(at(1_000_000));
        assert_eq!(elapsed(&provisioning, 0), seconds(0));
        assert_eq!(elapsed(&provisioning, 7), seconds(7));
        // The system's clock was set back in between.
        let created = |now| {
            let order = ReportOrder { session: 1, sequence: 1 };
            let target = provisioning.wanted;
            let report = Observed { order, target, disk: Disk::Complete, ..Observed::nothing() };
            provisioning.observe(&report, at(now)).unwrap()
        };
        let starting = created(5).request(Request::Start, at(6)).unwrap();
        assert_eq!(elapsed(&starting, 8), seconds(0));
        assert_eq!(elapsed(&starting, 11), seconds(3));
        let rests = created(8);
        assert_eq!(elapsed(&rests, 12), seconds(0));
        assert_eq!(elapsed(&starting, 13), seconds(0));
    }
}
