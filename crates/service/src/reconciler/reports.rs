//! Consumption of the node's reports, which update the workspaces' lifecycles.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use rigbox_core::ids::WorkspaceId;
use rigbox_core::lifecycle::{ObservedState, Report};
use rigbox_core::status::Status;
use rigbox_store::{Error, LatestBoot, Workspace};
use tracing::{info, warn};

use super::{Reconciler, lock};
use crate::nodes::client::{Event, NodeError, Reports};

const MIN_RECONNECT_DELAY: Duration = Duration::from_millis(100);
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(2);

impl Reconciler {
    /// Follows the node's reports, and reconnects when they end.
    pub async fn follow_reports(&self) {
        let mut delay = MIN_RECONNECT_DELAY;
        // Logged once per outage, which may be long.
        let mut was_connected = true;
        loop {
            // Read before the node is asked: a workspace that begins to exist meanwhile is missing from no list.
            let boots = self.read_boots().await;
            let outcome = match self.0.node.watch().await {
                Ok(reports) => self.process(reports, &boots).await,
                Err(error) => Err(error),
            };
            let synced = self.0.synced.send_replace(false);
            if synced {
                delay = MIN_RECONNECT_DELAY;
            }
            was_connected |= synced;
            if std::mem::take(&mut was_connected) {
                match outcome {
                    Ok(()) => info!("the stream of reports ended; reconnecting"),
                    Err(error) => info!(%error, "failed to get reports from the node; reconnecting"),
                }
            }
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(MAX_RECONNECT_DELAY);
        }
    }

    async fn read_boots(&self) -> BTreeMap<WorkspaceId, LatestBoot> {
        loop {
            match self.0.transitions.store().all_boots().await {
                Ok(boots) => return boots,
                Err(error) => {
                    warn!(%error, "failed to read the workspaces; trying again");
                    tokio::time::sleep(MAX_RECONNECT_DELAY).await;
                }
            }
        }
    }

    async fn process(
        &self,
        mut reports: Reports,
        boots: &BTreeMap<WorkspaceId, LatestBoot>,
    ) -> Result<(), NodeError> {
        let mut first = Some(HashMap::new());
        while let Some(event) = reports.next().await? {
            match event {
                Event::Report(id, report, disk_size_mb) => match &mut first {
                    Some(reported) => {
                        reported.insert(id, (report, disk_size_mb));
                    }
                    None => {
                        self.cache_report(&id, &report);
                        self.apply_or_keep(&id, &report, disk_size_mb).await;
                    }
                },
                Event::Synced => {
                    if let Some(reported) = first.take() {
                        self.reconcile_all(reported, boots).await;
                        self.0.synced.send_replace(true);
                    }
                }
            }
        }
        Ok(())
    }

    fn cache_report(&self, id: &WorkspaceId, report: &Report) {
        let mut reports = lock(&self.0.reports);
        if report.observed == ObservedState::Absent {
            reports.remove(id);
        } else {
            reports.insert(id.clone(), report.clone());
        }
    }

    /// Compares everything on the node with what the database had before the node was asked.
    async fn reconcile_all(
        &self,
        reported: HashMap<WorkspaceId, (Report, u32)>,
        boots: &BTreeMap<WorkspaceId, LatestBoot>,
    ) {
        *lock(&self.0.reports) =
            reported.iter().map(|(id, (report, _))| (id.clone(), report.clone())).collect();
        for (id, boot) in boots.iter().filter(|(id, _)| !reported.contains_key(*id)) {
            self.apply_absence(id, boot).await;
        }
        for (id, (report, disk_size_mb)) in &reported {
            self.apply_or_keep(id, report, *disk_size_mb).await;
        }
        self.forget_absent_orphans(&reported).await;
    }

    /// Applies that the node had nothing of a workspace, unless that has got another boot since.
    async fn apply_absence(&self, id: &WorkspaceId, boot: &LatestBoot) {
        let report = Report { generation: 0, observed: ObservedState::Absent };
        loop {
            let change = self.0.transitions.change::<Error>(id, None, |workspace, now| {
                Ok(boot.is_that_of(workspace).then(|| workspace.lifecycle.observe(&report, now)).flatten())
            });
            match change.await {
                Ok(_) => return self.wake(id),
                // There is no report that would remind the worker.
                Err(error) => {
                    warn!(workspace = %id, %error, "failed to store that the node has nothing; trying again");
                    tokio::time::sleep(MAX_RECONNECT_DELAY).await;
                }
            }
        }
    }

    /// Applies a report. A workspace that the database does not have is an orphan.
    async fn apply_or_keep(&self, id: &WorkspaceId, report: &Report, disk_size_mb: u32) {
        if !self.apply(id, report).await && report.observed != ObservedState::Absent {
            self.keep_orphan(id, report, disk_size_mb).await;
        }
    }

    /// Applies a report to a workspace's lifecycle and wakes its worker. Returns `false` if the database has no
    /// such workspace.
    pub async fn apply(&self, id: &WorkspaceId, report: &Report) -> bool {
        match self.store_report(id, report).await {
            Ok(Some(_)) => self.wake(id),
            Ok(None) => return false,
            // The next tick wakes the worker, which stores it.
            Err(error) => {
                warn!(workspace = %id, %error, "failed to store a report of the node; trying again soon");
                lock(&self.0.failing).insert(id.clone(), error.to_string());
            }
        }
        true
    }

    /// Applies a report to a workspace's lifecycle. A boot whose agent has answered still counts as booting
    /// until the worker has delivered its secrets, so that a workspace that is `running` has them. Returns the
    /// workspace afterwards, or `None` if the database has no such workspace.
    pub async fn store_report(&self, id: &WorkspaceId, report: &Report) -> Result<Option<Workspace>, Error> {
        let booting = match &report.observed {
            ObservedState::Running { boot, .. } => {
                Some(Report { observed: ObservedState::Booting { boot: boot.clone() }, ..report.clone() })
            }
            _ => None,
        };
        let change = self.0.transitions.change::<Error>(id, None, |workspace, now| {
            let undelivered = booting.as_ref().filter(|_| workspace.lifecycle.status == Status::Starting);
            Ok(workspace.lifecycle.observe(undelivered.unwrap_or(report), now))
        });
        change.await
    }
}
