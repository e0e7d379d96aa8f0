//! Transitions: the one place where a workspace's lifecycle is written, and where waiting callers are
//! notified of changes.

use std::sync::Arc;

use rigbox_core::ids::WorkspaceId;
use rigbox_core::lifecycle::Lifecycle;
use rigbox_core::time::Timestamp;
use rigbox_store::{Admission, AuditEvent, Error, Store, Workspace};
use tokio::sync::broadcast;
use tracing::info;

use crate::workspace_log::WorkspaceLogs;

/// Receivers that fall further behind read the database again.
const CHANNEL_CAPACITY: usize = 1024;

/// Change of a workspace, as subscribers are told.
#[derive(Debug, Clone)]
pub struct Change {
    /// Id of the workspace.
    pub id: WorkspaceId,
    /// The workspace after the change, if that was a change of its lifecycle by this process.
    pub after: Option<Arc<Workspace>>,
}

/// Writer of lifecycles.
#[derive(Clone)]
pub struct WorkspaceTransitions {
    store: Store,
    logs: WorkspaceLogs,
    changed: broadcast::Sender<Change>,
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

    /// Subscribes to changes of workspaces.
    pub fn subscribe(&self) -> broadcast::Receiver<Change> {
        self.changed.subscribe()
    }

    /// Notifies subscribers of a change, by which something may have become due.
    pub fn announce(&self, id: &WorkspaceId) {
        self.send(Change { id: id.clone(), after: None });
    }

    fn send(&self, change: Change) {
        // There may be no subscribers.
        let _ = self.changed.send(change);
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
            let Some(workspace) = self.store.workspace(id).await? else { return Ok(None) };
            let now = self.store.now();
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
                return Ok(Some(self.changed_to(workspace, lifecycle, now)));
            }
        }
    }

    /// Stores in one write what was observed of several workspaces, where nothing else changes. Returns the ids of those that nobody has
    /// changed since they were read; the others are not stored.
    pub async fn observe(
        &self,
        changes: Vec<(Workspace, Lifecycle)>,
        now: Timestamp,
    ) -> Result<Vec<WorkspaceId>, Error> {
        let stored = self.store.update_observed(&changes, now).await?;
        for (workspace, lifecycle) in changes {
            if stored.contains(&workspace.id) {
                self.changed_to(workspace, lifecycle, now);
            }
        }
        Ok(stored)
    }

    /// Returns the workspace after a change that was stored, and notifies subscribers.
    fn changed_to(&self, mut workspace: Workspace, lifecycle: Lifecycle, now: Timestamp) -> Workspace {
        workspace.lifecycle = lifecycle;
        workspace.revision += 1;
        workspace.updated_at = now;
        self.send(Change { id: workspace.id.clone(), after: Some(Arc::new(workspace.clone())) });
        workspace
    }
}

/// Returns the log line for the workspace's owner.
fn log_line(lifecycle: &Lifecycle) -> String {
    match &lifecycle.failure {
        Some(failure) => format!("Workspace is {}: {}", lifecycle.status, failure.message),
        None => format!("Workspace is {}.", lifecycle.status),
    }
}
