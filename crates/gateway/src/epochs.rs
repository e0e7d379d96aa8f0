//! Validity of cached decisions. Time is counted in epochs: each announced change starts one. A reply of control belongs to the epoch in
//! which it was requested, so a reply that was in flight when the change arrived is stale too. All workers of a role share this.
//!
//! A lease ends by a clock that nobody can set, and that goes on while the machine sleeps.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use rigbox_core::ids::WorkspaceId;
use rigbox_sys::clock::since_boot;
use tokio::sync::watch;

/// Maximum number of workspaces with an epoch of their own. Beyond it, a change of one workspace counts as a change of all.
const MAX_CHANGED_WORKSPACES: usize = 16_384;

/// Change announced by control.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The apps, the state or the network of a workspace changed.
    Workspace(WorkspaceId),
    /// Some credential was granted or revoked.
    Grants,
    /// Anything may have changed.
    Everything,
}

/// Current epoch, the oldest epochs that are still valid, and the lease without which nothing is.
#[derive(Debug)]
pub struct Epochs {
    current: AtomicU64,
    oldest: RwLock<Oldest>,
    /// End of the lease, by `clock`; `None` before the first and after it lapsed.
    lease: watch::Sender<Option<Duration>>,
    clock: fn() -> Duration,
}

/// Oldest valid epochs.
#[derive(Debug, Default)]
struct Oldest {
    all_workspaces: u64,
    workspaces: HashMap<WorkspaceId, u64>,
    grants: u64,
}

impl Default for Epochs {
    fn default() -> Self {
        Self::with_clock(since_boot)
    }
}

impl Epochs {
    /// Creates the first epoch, whose lease ends by another clock than the machine's, for tests.
    pub fn with_clock(clock: fn() -> Duration) -> Self {
        let (current, lease) = (AtomicU64::new(1), watch::Sender::new(None));
        Self { current, oldest: RwLock::default(), lease, clock }
    }

    /// Returns the time by which leases end.
    #[inline]
    pub(crate) fn now(&self) -> Duration {
        (self.clock)()
    }

    /// Returns the current epoch. Has to be read before the request to control that the epoch is for.
    #[inline]
    pub fn current(&self) -> u64 {
        self.current.load(Ordering::SeqCst)
    }

    /// Returns whether nothing about a workspace has changed since `epoch`.
    #[inline]
    pub fn is_workspace_current(&self, workspace: &WorkspaceId, epoch: u64) -> bool {
        let oldest = self.oldest.read().unwrap_or_else(PoisonError::into_inner);
        let own = oldest.workspaces.get(workspace).copied().unwrap_or_default();
        epoch >= oldest.all_workspaces.max(own)
    }

    /// Returns whether no credential has been granted or revoked since `epoch`.
    #[inline]
    pub fn are_grants_current(&self, epoch: u64) -> bool {
        epoch >= self.oldest.read().unwrap_or_else(PoisonError::into_inner).grants
    }

    /// Starts a new epoch, which invalidates what `change` affects.
    pub fn advance(&self, change: &Change) {
        let mut oldest = self.oldest.write().unwrap_or_else(PoisonError::into_inner);
        let epoch = self.current.fetch_add(1, Ordering::SeqCst) + 1;
        match change {
            Change::Workspace(id) if oldest.workspaces.len() < MAX_CHANGED_WORKSPACES => {
                oldest.workspaces.insert(id.clone(), epoch);
            }
            Change::Workspace(_) => {
                oldest.all_workspaces = epoch;
                oldest.workspaces.clear();
            }
            Change::Grants => oldest.grants = epoch,
            Change::Everything => {
                (oldest.all_workspaces, oldest.grants) = (epoch, epoch);
                oldest.workspaces.clear();
            }
        }
    }

    /// Renews the lease until `end`.
    pub fn renew(&self, end: Duration) {
        self.lease.send_replace(Some(end));
    }

    /// Ends the lease.
    pub fn lapse(&self) {
        self.lease.send_replace(None);
    }

    /// Returns whether the lease is in force.
    #[inline]
    pub fn is_leased(&self) -> bool {
        self.lease.borrow().is_some_and(|end| self.now() < end)
    }

    /// Waits until the lease is in force. Returns `false` after `timeout`.
    pub async fn leased(&self, timeout: Duration) -> bool {
        if self.is_leased() {
            return true;
        }
        let mut lease = self.lease.subscribe();
        let renewed = lease.wait_for(|end| end.is_some_and(|end| self.now() < end));
        // Boxed, as is everything large and rare: a request's future is moved as a whole.
        Box::pin(tokio::time::timeout(timeout, renewed)).await.is_ok_and(|renewed| renewed.is_ok())
    }
}
