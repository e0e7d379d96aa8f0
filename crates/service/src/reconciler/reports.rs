//! Consumption of the node's reports, which update the workspaces' lifecycles.

use std::collections::BTreeMap;
use std::time::Duration;

use rigbox_core::ids::WorkspaceId;
use rigbox_core::lifecycle::{Observed, ReportOrder};
use rigbox_proto::node::Synced;
use rigbox_store::{Error, Step, Workspace};
use tracing::{info, warn};

use super::gathered::Gathered;
use super::outcome::Outcome;
use super::{Reconciler, lock};
use crate::nodes::api::NodeError;
use crate::nodes::client::{Event, Reports};
use crate::nodes::report::NodeReport;

const MIN_RECONNECT_DELAY: Duration = Duration::from_millis(100);
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(2);

impl Reconciler {
    /// Follows the node's reports, and reconnects when they end.
    pub async fn follow_reports(&self) {
        let mut delay = MIN_RECONNECT_DELAY;
        // Logged once per outage, which may be long.
        let mut was_connected = true;
        loop {
            let outcome = match self.0.node.watch().await {
                Ok(reports) => self.process(reports).await,
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

    async fn process(&self, mut reports: Reports) -> Result<(), NodeError> {
        let (mut first, mut gathered) = (Some(BTreeMap::new()), Gathered::default());
        loop {
            let event = tokio::select! {
                biased;
                () = gathered.due() => {
                    self.store_gathered(gathered.take()).await;
                    continue;
                }
                event = reports.next() => event?,
            };
            match event {
                None => return Ok(()),
                Some(Event::Report(report)) => match &mut first {
                    Some(reported) => {
                        reported.insert(report.id.clone(), report);
                    }
                    None => self.gather_or_apply(report, &mut gathered).await,
                },
                Some(Event::Synced(synced)) => {
                    if let Some(reported) = first.take() {
                        self.node_is_known(reported, synced).await;
                    }
                }
            }
        }
    }

    /// Applies everything that the node has, and that it has nothing of other workspaces.
    async fn node_is_known(&self, reported: BTreeMap<WorkspaceId, NodeReport>, synced: Synced) {
        let order = ReportOrder { session: synced.session, sequence: synced.sequence };
        let mut all: BTreeMap<_, _> =
            self.read_ids().await.into_iter().map(|id| (id.clone(), absent(id, order))).collect();
        all.extend(reported.clone());
        let ids: Vec<_> = all.keys().cloned().collect();
        // From now on, a worker applies what is known of its workspace before it does anything.
        self.0.node.begin_session(synced.session);
        lock(&self.0.unstored).append(&mut all);
        self.forget_absent_orphans(&reported).await;
        for id in &ids {
            match self.store_remembered(id).await {
                Ok(Outcome::Retry(problem)) => self.store_later(id, &problem),
                Err(error) => self.store_later(id, &error),
                Ok(_) => self.wake(id),
            }
        }
        self.0.synced.send_replace(true);
    }

    async fn read_ids(&self) -> Vec<WorkspaceId> {
        loop {
            match self.0.transitions.store().all_workspaces().await {
                Ok(ids) => return ids,
                Err(error) => {
                    warn!(%error, "failed to read the workspaces; trying again");
                    tokio::time::sleep(MAX_RECONNECT_DELAY).await;
                }
            }
        }
    }

    /// Applies a report to a workspace's lifecycle. A workspace that the database does not have is an orphan.
    pub(super) async fn apply_or_keep(&self, report: NodeReport) {
        let id = &report.id;
        match self.store_or_keep(&report).await {
            Ok(Outcome::Retry(problem)) => {
                self.store_later(id, &problem);
                self.remember(report);
            }
            Err(error) => {
                self.store_later(id, &error);
                self.remember(report);
            }
            // A change was announced, and whoever follows these wakes the worker if something is due.
            Ok(_) => {}
        }
    }

    /// Makes the next tick wake the worker, which stores the report.
    fn store_later(&self, id: &WorkspaceId, problem: &dyn std::fmt::Display) {
        warn!(workspace = %id, %problem, "failed to act on a report of the node; trying again soon");
        lock(&self.0.failing).insert(id.clone(), problem.to_string());
    }

    /// Remembers a report that could not be stored, unless a later one is remembered.
    fn remember(&self, report: NodeReport) {
        let mut unstored = lock(&self.0.unstored);
        let order = report.observed.order;
        if unstored.get(&report.id).is_none_or(|earlier| order.is_after(earlier.observed.order)) {
            unstored.insert(report.id.clone(), report);
        }
    }

    /// Applies a report that is not stored yet. Returns what is left to do, if anything.
    pub(super) async fn store_remembered(&self, id: &WorkspaceId) -> Result<Outcome, Error> {
        let remembered = lock(&self.0.unstored).get(id).cloned();
        let Some(report) = remembered else { return Ok(Outcome::Wait) };
        let outcome = self.store_or_keep(&report).await?;
        let mut unstored = lock(&self.0.unstored);
        if !matches!(outcome, Outcome::Retry(_)) && unstored.get(id) == Some(&report) {
            unstored.remove(id);
        }
        Ok(outcome)
    }

    /// Applies a report to its workspace, or keeps that as an orphan if the database does not have it.
    async fn store_or_keep(&self, report: &NodeReport) -> Result<Outcome, Error> {
        match self.store_report(report).await? {
            Some(_) => Ok(Outcome::Wait),
            None => self.keep_orphan(report).await,
        }
    }

    /// Applies a report to a workspace's lifecycle, unless it is one of an earlier session: the reports with which the current one began
    /// replace it. Returns the workspace afterwards, or `None` if the database has no such workspace.
    pub(super) async fn store_report(&self, report: &NodeReport) -> Result<Option<Workspace>, Error> {
        let (node, store) = (&self.0.node, self.0.transitions.store());
        let mut gets_on = false;
        // A session that begins after this look applies its own reports later, so this one loses or is replaced.
        let observe = |workspace: &Workspace, now| {
            let is_current = node.is_current(report);
            let observed = is_current.then(|| workspace.lifecycle.observe(&report.observed, now)).flatten();
            if observed.is_some() && workspace.lifecycle.status.is_transient() {
                gets_on = true;
                store.pass_before(Step::Report);
            }
            Ok(observed)
        };
        let workspace = self.0.transitions.change::<Error>(&report.id, None, observe).await?;
        if gets_on {
            store.pass_after(Step::Report);
        }
        node.note(report);
        if workspace.is_some() {
            self.0.networks.acknowledge(&report.id, report.network_revision).await?;
        }
        Ok(workspace)
    }
}

/// Returns the report that the node has nothing of a workspace.
fn absent(id: WorkspaceId, order: ReportOrder) -> NodeReport {
    NodeReport {
        id,
        observed: Observed::absent(order, 0),
        disk_size_mb: 0,
        queue_position: None,
        network_revision: 0,
    }
}
