//! The one place where a workspace's life is written, and where those who wait for a change hear of it.

use rigbox_core::ids::WorkspaceId;
use rigbox_core::lifecycle::Lifecycle;
use rigbox_core::time::Moment;
use rigbox_store::{Act, Error, Store, Workspace};
use tokio::sync::broadcast;
use tracing::info;

use crate::clock;
use crate::service::workspace_logs::WorkspaceLogs;

/// Waiters that fall further behind look at the database again.
const BACKLOG: usize = 1024;

#[derive(Clone)]
pub(crate) struct Lives {
    store: Store,
    logs: WorkspaceLogs,
    changed: broadcast::Sender<WorkspaceId>,
}

impl Lives {
    pub(crate) fn new(store: Store) -> Self {
        Self { logs: WorkspaceLogs::new(store.clone()), store, changed: broadcast::channel(BACKLOG).0 }
    }

    /// The workspaces' own logs.
    pub(crate) fn logs(&self) -> &WorkspaceLogs {
        &self.logs
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<WorkspaceId> {
        self.changed.subscribe()
    }

    /// Tells everybody that a workspace is another than before.
    pub(crate) fn announce(&self, id: &WorkspaceId) {
        // Nobody listening is fine.
        let _ = self.changed.send(id.clone());
    }

    /// Gives a workspace the life that `next` makes of its present one (`None`: leave it), however many others write at
    /// the same time; `act` is who asked for it. Answers the workspace as it is afterwards, or `None` when it does not exist.
    pub(crate) async fn change<E: From<Error>>(
        &self,
        id: &WorkspaceId,
        act: Option<&Act>,
        mut next: impl FnMut(&Workspace, Moment) -> Result<Option<Lifecycle>, E>,
    ) -> Result<Option<Workspace>, E> {
        loop {
            let Some(mut workspace) = self.store.workspace(id).await? else { return Ok(None) };
            let now = clock::now();
            let Some(life) = next(&workspace, now)?.filter(|life| *life != workspace.life) else {
                return Ok(Some(workspace));
            };
            let moved = life.status != workspace.life.status;
            let line = moved.then(|| told(&life));
            if self.store.update_life(&workspace, &life, line.as_deref(), act, now).await? {
                if moved {
                    let failure = life.failure.as_ref().map(|failure| failure.code.as_str());
                    info!(workspace = %id, from = %workspace.life.status, to = %life.status, failure, "moved");
                    self.logs.announce(id);
                }
                workspace.life = life;
                workspace.revision += 1;
                workspace.updated_at = now;
                self.announce(id);
                return Ok(Some(workspace));
            }
        }
    }
}

/// What its owner reads of a new state.
fn told(life: &Lifecycle) -> String {
    match &life.failure {
        Some(failure) => format!("the workspace is {}: {}", life.status, failure.message),
        None => format!("the workspace is {}", life.status),
    }
}
