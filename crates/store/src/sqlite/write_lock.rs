//! Lock of the connections that write. SQLite has one writer at a time, and lets those that wait for it starve each other; here each gets its
//! turn in the order of arrival.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::unconstrained;
use tokio::time::timeout;

use super::in_turn::block_on;

/// Timeout for a connection, and for the lock.
pub(super) const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// The lock, or none for connections that only read.
#[derive(Debug, Clone, Default)]
pub(crate) struct WriteLock(Option<Arc<Mutex<()>>>);

/// The lock while it is held.
pub(crate) type WriteGuard = Option<OwnedMutexGuard<()>>;

impl WriteLock {
    /// Creates a lock.
    pub(crate) fn new() -> Self {
        Self(Some(Arc::default()))
    }

    /// Waits for the lock.
    pub(crate) async fn take(&self) -> Result<WriteGuard, sqlx::Error> {
        let taken = timeout(ACQUIRE_TIMEOUT, self.wait()).await;
        taken.map_err(|_| sqlx::Error::PoolTimedOut)
    }

    /// Waits for the lock on this thread.
    pub(crate) fn take_inline(&self) -> WriteGuard {
        // In a task that has used up its turn, the lock would never be ready.
        block_on(unconstrained(self.wait()))
    }

    async fn wait(&self) -> WriteGuard {
        match &self.0 {
            Some(lock) => Some(Arc::clone(lock).lock_owned().await),
            None => None,
        }
    }
}
