//! A workspace's own log: what has become of it, written in the transaction that does it, and what its network refused it.

use rigbox_core::authz::{Permit, ReadLogs};
use rigbox_core::ids::WorkspaceId;
use rigbox_core::time::Timestamp;
use rigbox_store::{LogEntry, Store};
use tokio::sync::broadcast;
use tracing::warn;

use crate::error::{ServiceError, id_of};

/// Readers that fall further behind look at the database again.
const BACKLOG: usize = 256;

#[derive(Clone)]
pub struct WorkspaceLogs {
    store: Store,
    written: broadcast::Sender<WorkspaceId>,
}

impl WorkspaceLogs {
    pub fn new(store: Store) -> Self {
        Self { store, written: broadcast::channel(BACKLOG).0 }
    }

    /// Adds a line.
    pub async fn add(&self, id: &WorkspaceId, at: Timestamp, message: String) {
        match self.store.log(id, at, &message).await {
            Ok(()) => self.announce(id),
            Err(error) => warn!(workspace = %id, %error, "a line of the workspace's log is lost"),
        }
    }

    /// Tells readers that something was written.
    pub fn announce(&self, id: &WorkspaceId) {
        // Nobody reading is fine.
        let _ = self.written.send(id.clone());
    }

    /// The lines after `after`, or the last ones.
    pub fn lines(
        &self,
        permit: &Permit<ReadLogs>,
        after: Option<i64>,
        limit: u32,
    ) -> Result<Vec<LogEntry>, ServiceError> {
        Ok(self.store.log_of(id_of(permit)?, after, limit)?)
    }

    /// Waits until something may have been written to the permit's workspace; `false` when nothing will be any more.
    pub async fn news(
        &self,
        permit: &Permit<ReadLogs>,
        written: &mut broadcast::Receiver<WorkspaceId>,
    ) -> bool {
        loop {
            match written.recv().await {
                Ok(id) if permit.workspace() == Some(&id) => return true,
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(_)) => return true,
                Err(broadcast::error::RecvError::Closed) => return false,
            }
        }
    }

    pub fn subscribe(&self) -> broadcast::Receiver<WorkspaceId> {
        self.written.subscribe()
    }
}
