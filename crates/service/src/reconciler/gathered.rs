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

/// Reports that are not stored yet, the latest of each workspace. Those that are lost with their stream come again with the next one.
#[derive(Default)]
pub(super) struct Gathered {
    reports: BTreeMap<WorkspaceId, NodeReport>,
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
    pub(super) fn take(&mut self) -> BTreeMap<WorkspaceId, NodeReport> {
        std::mem::take(self).reports
    }

    fn add(&mut self, report: NodeReport) {
        let now = Instant::now();
        let due = if self.reports.len() + 1 < MAX_REPORTS { now + GATHERING_TIME } else { now };
        self.reports.insert(report.id.clone(), report);
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
    }

    /// Returns whether a later report of the workspace is here: this one was overtaken.
    fn has_later(&self, report: &NodeReport) -> bool {
        let order = report.observed.order;
        self.reports.get(&report.id).is_some_and(|other| other.observed.order.is_after(order))
    }
}

impl Reconciler {
    /// Gathers a report, or applies it at once if it changes more than the record.
    pub(super) async fn gather_or_apply(&self, report: NodeReport, gathered: &mut Gathered) {
        if gathered.has_later(&report) {
            return;
        }
        if self.bare_change(&report).await.is_some() {
            gathered.add(report);
        } else {
            gathered.reports.remove(&report.id);
            self.apply_or_keep(report).await;
        }
    }

    /// Stores reports in one write. Those of workspaces that have changed meanwhile are applied one by one.
    pub(super) async fn store_gathered(&self, reports: BTreeMap<WorkspaceId, NodeReport>) {
        let mut changes = Vec::new();
        for report in reports.values() {
            changes.extend(self.bare_change(report).await);
        }
        let now = self.0.transitions.store().now();
        let stored = self.0.transitions.observe(changes, now).await.unwrap_or_else(|error| {
            debug!(%error, "failed to store reports together");
            Vec::new()
        });
        for (id, report) in reports {
            let is_done = stored.contains(&id) && {
                self.0.node.note(&report);
                self.0.networks.acknowledge(&id, report.network_revision).await.is_ok()
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
