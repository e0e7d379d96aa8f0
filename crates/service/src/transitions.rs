//! Transitions: the one place where a workspace's lifecycle is written, and where waiting callers are
//! notified of changes.

use rigbox_core::ids::WorkspaceId;
use rigbox_core::lifecycle::Lifecycle;
use rigbox_core::time::Timestamp;
use rigbox_store::{Admission, AuditEvent, Error, Store, Workspace};
use tokio::sync::broadcast;
use tracing::info;

use crate::clock;
use crate::workspace_log::WorkspaceLogs;

/// Receivers that fall further behind read the database again.
const CHANNEL_CAPACITY: usize = 1024;

/// Writer of lifecycles.
#[derive(Clone)]
pub struct WorkspaceTransitions {
    store: Store,
    logs: WorkspaceLogs,
    changed: broadcast::Sender<WorkspaceId>,
}

impl WorkspaceTransitions {
    /// Creates the writer.
    pub fn new(store: Store) -> Self {
        Self {
            logs: WorkspaceLogs::new(store.clone()),
            store,
            changed: broadcast::channel(CHANNEL_CAPACITY).0,
        }
    }

    /// Returns the workspaces' own logs.
    pub fn logs(&self) -> &WorkspaceLogs {
        &self.logs
    }

    /// Returns the store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Subscribes to the ids of changed workspaces.
    pub fn subscribe(&self) -> broadcast::Receiver<WorkspaceId> {
        self.changed.subscribe()
    }

    /// Notifies subscribers of a change.
    pub fn announce(&self, id: &WorkspaceId) {
        // There may be no subscribers.
        let _ = self.changed.send(id.clone());
    }

    /// Replaces a workspace's lifecycle with the result of `next` (`None` keeps it), with retries while
    /// others write at the same time. `event` is the audit event of the request. Returns the workspace
    /// afterwards, or `None` if it does not exist.
    pub async fn change<E: From<Error>>(
        &self,
        id: &WorkspaceId,
        event: Option<&AuditEvent>,
        next: impl FnMut(&Workspace, Timestamp) -> Result<Option<Lifecycle>, E>,
    ) -> Result<Option<Workspace>, E> {
        self.change_within(None, id, event, next).await
    }

    /// As [`Self::change`]; with `admission`, only if the node has the memory for the workspace.
    pub async fn change_within<E: From<Error>>(
        &self,
        admission: Option<Admission>,
        id: &WorkspaceId,
        event: Option<&AuditEvent>,
        mut next: impl FnMut(&Workspace, Timestamp) -> Result<Option<Lifecycle>, E>,
    ) -> Result<Option<Workspace>, E> {
        loop {
            let Some(mut workspace) = self.store.workspace(id).await? else { return Ok(None) };
            let now = clock::now();
            let Some(lifecycle) =
                next(&workspace, now)?.filter(|lifecycle| *lifecycle != workspace.lifecycle)
            else {
                return Ok(Some(workspace));
            };
            let status_changed = lifecycle.status != workspace.lifecycle.status;
            let line = status_changed.then(|| log_line(&lifecycle));
            let line = line.as_deref();
            if self.store.update_lifecycle(&workspace, &lifecycle, admission, line, event, now).await? {
                if status_changed {
                    let failure = lifecycle.failure.as_ref().map(|failure| failure.code.as_str());
                    info!(workspace = %id, from = %workspace.lifecycle.status, to = %lifecycle.status, failure, "changed status");
                    self.logs.announce(id);
                }
                workspace.lifecycle = lifecycle;
                workspace.revision += 1;
                workspace.updated_at = now;
                self.announce(id);
                return Ok(Some(workspace));
            }
        }
    }
}

/// Returns the log line for the workspace's owner.
fn log_line(lifecycle: &Lifecycle) -> String {
    match &lifecycle.failure {
        Some(failure) => format!("Workspace is {}: {}", lifecycle.status, failure.message),
        None => format!("Workspace is {}.", lifecycle.status),
    }
}
