//! The one place where a workspace's lifecycle is written, and where those who wait for a change hear of it.

use rigbox_core::ids::WorkspaceId;
use rigbox_core::lifecycle::Lifecycle;
use rigbox_core::time::Timestamp;
use rigbox_store::{AuditEvent, Error, Store, Workspace};
use tokio::sync::broadcast;
use tracing::info;

use crate::clock;
use crate::workspace_log::WorkspaceLogs;

/// Waiters that fall further behind look at the database again.
const CHANNEL_CAPACITY: usize = 1024;

#[derive(Clone)]
pub struct WorkspaceTransitions {
    store: Store,
    logs: WorkspaceLogs,
    changed: broadcast::Sender<WorkspaceId>,
}

impl WorkspaceTransitions {
    pub fn new(store: Store) -> Self {
        Self {
            logs: WorkspaceLogs::new(store.clone()),
            store,
            changed: broadcast::channel(CHANNEL_CAPACITY).0,
        }
    }

    /// The workspaces' own logs.
    pub fn logs(&self) -> &WorkspaceLogs {
        &self.logs
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn subscribe(&self) -> broadcast::Receiver<WorkspaceId> {
        self.changed.subscribe()
    }

    /// Tells everybody that a workspace is another than before.
    pub fn announce(&self, id: &WorkspaceId) {
        // Nobody listening is fine.
        let _ = self.changed.send(id.clone());
    }

    /// Gives a workspace the lifecycle that `next` makes of its present one (`None`: leave it), however many others write at
    /// the same time; `event` is who requested for it. Answers the workspace as it is afterwards, or `None` when it does not exist.
    pub async fn change<E: From<Error>>(
        &self,
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
            let moved = lifecycle.status != workspace.lifecycle.status;
            let line = moved.then(|| log_line(&lifecycle));
            if self.store.update_lifecycle(&workspace, &lifecycle, line.as_deref(), event, now).await? {
                if moved {
                    let failure = lifecycle.failure.as_ref().map(|failure| failure.code.as_str());
                    info!(workspace = %id, from = %workspace.lifecycle.status, to = %lifecycle.status, failure, "moved");
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

/// What its owner reads of a new state.
fn log_line(lifecycle: &Lifecycle) -> String {
    match &lifecycle.failure {
        Some(failure) => format!("the workspace is {}: {}", lifecycle.status, failure.message),
        None => format!("the workspace is {}", lifecycle.status),
    }
}
