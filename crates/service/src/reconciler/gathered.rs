//! Reports that change nothing but the record of what was observed: most of those of a workspace that runs. They are gathered for a moment
//! and stored in one write, because each write waits for the disk.

use std::collections::BTreeMap;
use std::time::Duration;

use rigbox_core::ids::WorkspaceId;
use rigbox_core::lifecycle::Lifecycle;
use rigbox_store::Workspace;
use tokio::time::Instant;
use tracing::debug;

use super::Reconciler;
use crate::nodes::report::NodeReport;

/// Time for which reports are gathered.
pub(super) const GATHERING_TIME: Duration = Duration::from_millis(50);
/// Maximum number of reports that are written together.
const MAX_REPORTS: usize = 64;

/// Report with the workspace that it was compared with, and its state after the report.
pub(super) struct BareChange {
    report: NodeReport,
    workspace: Workspace,
    after: Lifecycle,
}

/// Reports that are not stored yet, the latest of each workspace. Those that are lost with their stream come again with the next one.
#[derive(Default)]
pub(super) struct Gathered {
    changes: BTreeMap<WorkspaceId, BareChange>,
    due: Option<Instant>,
}

impl Gathered {
    /// Returns once the reports have to be stored.
    pub(super) async fn due(&self) {
        match self.due {
            Some(due) => tokio::time::sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    /// Takes all reports out.
    pub(super) fn take(&mut self) -> Vec<BareChange> {
        std::mem::take(self).changes.into_values().collect()
    }

    fn add(&mut self, change: BareChange) {
        let now = Instant::now();
        let due = if self.changes.len() + 1 < MAX_REPORTS { now + GATHERING_TIME } else { now };
        self.changes.insert(change.workspace.id.clone(), change);
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
    }

    /// Returns whether a later report of the workspace is here: this one was overtaken.
    fn has_later(&self, report: &NodeReport) -> bool {
        let order = report.observed.order;
        let other = self.changes.get(&report.id);
        other.is_some_and(|other| other.report.observed.order.is_after(order))
    }
}

impl Reconciler {
    /// Gathers a report, or applies it at once if it changes more than the record.
    pub(super) async fn gather_or_apply(&self, report: NodeReport, gathered: &mut Gathered) {
        if gathered.has_later(&report) {
            return;
        }
        match self.bare_change(&report).await {
            Some((workspace, after)) => gathered.add(BareChange { report, workspace, after }),
            None => {
                gathered.changes.remove(&report.id);
                self.apply_or_keep(report).await;
            }
        }
    }

    /// Stores reports in one write. Those of workspaces that have changed meanwhile are applied one by one.
    pub(super) async fn store_gathered(&self, gathered: Vec<BareChange>) {
        let (mut reports, mut changes) = (Vec::new(), Vec::new());
        for BareChange { report, workspace, after } in gathered {
            // The node may have begun another stream since.
            if self.0.node.is_current(&report) {
                changes.push((workspace, after));
            }
            reports.push(report);
        }
        let now = self.0.transitions.store().now();
        let stored = self.0.transitions.observe(changes, now).await.unwrap_or_else(|error| {
            debug!(%error, "failed to store reports together");
            Vec::new()
        });
        for report in reports {
            let is_done = stored.contains(&report.id) && {
                self.0.node.note(&report);
                self.0.networks.acknowledge(&report.id, report.network_revision).await.is_ok()
            };
            if !is_done {
                self.apply_or_keep(report).await;
            }
        }
    }

    /// Returns a workspace and its state after a report that changes nothing but the record.
    async fn bare_change(&self, report: &NodeReport) -> Option<(Workspace, Lifecycle)> {
        if !self.0.node.is_current(report) {
            return None;
        }
        let store = self.0.transitions.store();
        let workspace = store.workspace(&report.id).await.ok()??;
        let before = &workspace.lifecycle;
        let after = before.observe(&report.observed, store.now())?;
        let is_bare = !before.status.is_transient() && before.differs_in_record_only(&after);
        is_bare.then_some((workspace, after))
    }
}
