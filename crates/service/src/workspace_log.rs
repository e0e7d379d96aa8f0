//! Log of a workspace: its changes of status, written in the transaction that makes them, and the network
//! access it was refused.

use std::collections::BTreeSet;

use rigbox_core::authz::{Permit, ReadLogs};
use rigbox_core::ids::WorkspaceId;
use rigbox_core::time::Timestamp;
use rigbox_store::{LogEntry, Store};
use tokio::sync::broadcast;
use tracing::warn;

use crate::error::{ServiceError, id_of};

/// Receivers that fall further behind read the database again.
const CHANNEL_CAPACITY: usize = 256;

/// Service for workspace logs.
#[derive(Clone)]
pub struct WorkspaceLogs {
    store: Store,
    written: broadcast::Sender<WorkspaceId>,
}

impl WorkspaceLogs {
    /// Creates the service.
    pub fn new(store: Store) -> Self {
        Self { store, written: broadcast::channel(CHANNEL_CAPACITY).0 }
    }

    /// Adds lines to the logs of their workspaces.
    pub async fn add_all(&self, lines: &[(WorkspaceId, Timestamp, String)]) {
        match self.store.log_all(lines).await {
            Ok(()) => lines
                .iter()
                .map(|(id, ..)| id)
                .collect::<BTreeSet<_>>()
                .into_iter()
                .for_each(|id| self.announce(id)),
            Err(error) => warn!(%error, lines = lines.len(), "failed to write to the workspaces' logs"),
        }
    }

    /// Notifies readers of a new line.
    pub fn announce(&self, id: &WorkspaceId) {
        // There may be no readers.
        let _ = self.written.send(id.clone());
    }

    /// Returns the lines after `after`, or the last ones.
    pub fn lines(
        &self,
        permit: &Permit<ReadLogs>,
        after: Option<i64>,
        limit: u32,
    ) -> Result<Vec<LogEntry>, ServiceError> {
        Ok(self.store.log_of(id_of(permit)?, after, limit)?)
    }

    /// Waits until something may have been written to the log of the permit's workspace. Returns `false` if
    /// nothing will be.
    pub async fn wait_for_lines(
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

    /// Subscribes to the ids of workspaces with new lines.
    pub fn subscribe(&self) -> broadcast::Receiver<WorkspaceId> {
        self.written.subscribe()
    }
}
