//! Workspaces that the node has and the database does not, after a database was restored from a backup, for example. They are stopped and
//! kept: only a workspace whose deletion was acknowledged is removed.

use std::collections::BTreeMap;

use rigbox_core::ids::WorkspaceId;
use rigbox_core::lifecycle::{Desired, Disk, Target};
use rigbox_store::{Error, Orphan};
use tracing::{debug, info, warn};

use super::Reconciler;
use super::outcome::Outcome;
use crate::nodes::api::NodeError;
use crate::nodes::report::NodeReport;
use crate::targets::without_details;

impl Reconciler {
    /// Records an orphan and stops it, or removes it if its deletion was acknowledged. Forgets one that is gone. Returns what is left to do,
    /// if anything.
    pub(super) async fn keep_orphan(&self, report: &NodeReport) -> Result<Outcome, Error> {
        let NodeReport { id, observed, disk_size_mb, .. } = report;
        if !self.0.node.is_current(report) {
            // The current session has told about it.
            return Ok(Outcome::Wait);
        }
        if observed.is_absent() {
            self.0.transitions.store().forget_orphan(id).await?;
            return Ok(Outcome::Wait);
        }
        if observed.target.state == Desired::Deleted {
            // The node is about to remove it.
            return Ok(Outcome::Wait);
        }
        let node_id = match self.0.node.describe().await.map(|node| node.node_id.parse()) {
            Ok(Ok(node_id)) => node_id,
            Ok(Err(_)) => return Ok(Outcome::Retry("the node has no valid id".to_owned())),
            Err(error) => return Ok(Outcome::Retry(error.to_string())),
        };
        let now = self.0.transitions.store().now();
        let orphan = Orphan {
            id: id.clone(),
            node_id,
            // What is being created is nothing to adopt. (A later report tells of its completion.)
            disk_size_mb: if observed.disk == Disk::Complete { *disk_size_mb } else { 0 },
            generation: observed.target.generation,
            found_at: now,
            is_removed: false,
        };
        let recorded = match self.0.transitions.store().record_orphan(&orphan).await? {
            Some(recorded) => recorded,
            // It was adopted meanwhile.
            None => return Ok(Outcome::Wait),
        };
        if recorded.is_removed {
            self.remove_orphan(&recorded).await;
            return Ok(Outcome::Wait);
        }
        if recorded.found_at == now {
            warn!(workspace = %id, "the database has no such workspace: keeping it (rigboxd admin orphans ls)");
        }
        if observed.target.state != Desired::Running {
            return Ok(Outcome::Wait);
        }
        // Until a report tells that the node holds the target.
        let stopped = self.set_orphan(&orphan, Desired::Stopped).await;
        Ok(stopped.map_or_else(|error| Outcome::Retry(error.to_string()), |_| Outcome::Wait))
    }

    /// Sets the next target of an orphan. Returns the record that the node answers with.
    async fn set_orphan(&self, orphan: &Orphan, state: Desired) -> Result<NodeReport, NodeError> {
        let target = Target { generation: orphan.generation.saturating_add(1), state };
        self.0.node.set_target(without_details(&orphan.id, target)).await
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
        let id = &orphan.id;
        match self.set_orphan(orphan, Desired::Deleted).await {
            Ok(report) if report.observed.is_absent() => {
                info!(workspace = %id, "removed a deleted workspace from the node");
                self.forget_orphan(id).await;
            }
            // A report tells when it is gone.
            Ok(_) => {}
            // The next tick tries again.
            Err(error) => {
                debug!(workspace = %id, %error, "failed to remove a deleted workspace from the node");
            }
        }
    }

    async fn forget_orphan(&self, id: &WorkspaceId) {
        if let Err(error) = self.0.transitions.store().forget_orphan(id).await {
            warn!(workspace = %id, %error, "failed to forget an orphan that is gone; trying again soon");
        }
    }

    /// Forgets the orphans that the node has not reported.
    pub(super) async fn forget_absent_orphans(&self, reported: &BTreeMap<WorkspaceId, NodeReport>) {
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
