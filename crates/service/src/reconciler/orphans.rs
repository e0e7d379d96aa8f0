//! Workspaces that the node has and the database does not, after a database was restored from a backup, for example. They are stopped and
//! kept: only a workspace whose deletion was acknowledged is removed.

use std::collections::HashMap;

use rigbox_core::ids::WorkspaceId;
use rigbox_core::lifecycle::Report;
use rigbox_store::Orphan;
use tracing::{debug, info, warn};

use super::{Reconciler, lock};
use crate::clock;

impl Reconciler {
    /// Records an orphan and stops it, or removes it if its deletion was acknowledged.
    pub(super) async fn keep_orphan(&self, id: &WorkspaceId, report: &Report, disk_size_mb: u32) {
        let node_id = match self.0.node.describe().await.map(|node| node.node_id.parse()) {
            Ok(Ok(node_id)) => node_id,
            // It is reported again when the node is back.
            Ok(Err(_)) | Err(_) => return,
        };
        let now = clock::now();
        let orphan = Orphan {
            id: id.clone(),
            node_id,
            disk_size_mb,
            generation: report.generation,
            found_at: now,
            is_removed: false,
        };
        match self.0.transitions.store().record_orphan(&orphan).await {
            Ok(Some(recorded)) if recorded.is_removed => self.remove_orphan(&recorded).await,
            Ok(Some(recorded)) => {
                if recorded.found_at == now {
                    warn!(workspace = %id, "the database has no such workspace: keeping it (rigboxd admin orphans ls)");
                }
                if report.observed.is_alive()
                    && let Err(error) = self.0.node.stop(id, report.generation.saturating_add(1)).await
                {
                    warn!(workspace = %id, %error, "failed to stop an orphan");
                }
            }
            // It was adopted meanwhile.
            Ok(None) => {}
            Err(error) => warn!(workspace = %id, %error, "failed to record an orphan"),
        }
    }

    /// Removes the orphans whose removal was requested.
    pub(super) async fn remove_orphans(&self) {
        match self.0.transitions.store().orphans().await {
            Ok(orphans) => {
                for orphan in orphans.iter().filter(|orphan| orphan.is_removed) {
                    self.remove_orphan(orphan).await;
                }
            }
            Err(error) => warn!(%error, "failed to read the orphans"),
        }
    }

    async fn remove_orphan(&self, orphan: &Orphan) {
        let Orphan { id, generation, .. } = orphan;
        if let Err(error) = self.0.node.delete(id, generation.saturating_add(1)).await {
            // The next tick tries again.
            debug!(workspace = %id, %error, "failed to remove a deleted workspace from the node");
            return;
        }
        info!(workspace = %id, "removed a deleted workspace from the node");
        lock(&self.0.reports).remove(id);
        if let Err(error) = self.0.transitions.store().forget_orphan(id).await {
            warn!(workspace = %id, %error, "failed to forget an orphan that is gone; trying again soon");
        }
    }

    /// Forgets the orphans that the node has not reported.
    pub(super) async fn forget_absent_orphans(&self, reported: &HashMap<WorkspaceId, (Report, u32)>) {
        let store = self.0.transitions.store();
        let forget = async {
            for orphan in store.orphans().await?.iter().filter(|orphan| !reported.contains_key(&orphan.id)) {
                store.forget_orphan(&orphan.id).await?;
            }
            Ok::<_, rigbox_store::Error>(())
        };
        if let Err(error) = forget.await {
            warn!(%error, "failed to forget orphans that are gone");
        }
    }
}
