//! Worker of one workspace: performs the next step until none is due.

use std::time::{Duration, Instant};

use rigbox_core::ids::WorkspaceId;
use rigbox_core::lifecycle::{Lifecycle, ObservedState, Report, Step};
use rigbox_core::status::Status;
use rigbox_core::time::Timestamp;
use rigbox_store::{Error, Workspace};
use tokio::sync::Notify;
use tracing::{debug, warn};

use super::{Reconciler, lock};
use crate::nodes::client::{NodeError, Started};

/// Delay before a stop without effect is requested again.
const STOP_RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Interval at which a step in progress is checked for its timeout.
const STEP_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Outcome of a step.
pub enum Outcome {
    /// Continue with the next step at once.
    Progressed,
    /// Wait for a report or a request.
    Wait,
    /// Try again at the next tick.
    Retry(String),
}

impl Reconciler {
    /// Performs steps until there is nothing to do.
    pub async fn work(&self, id: &WorkspaceId, wake: &Notify) {
        loop {
            match self.advance(id, wake).await {
                Ok(Outcome::Progressed) => {}
                Ok(Outcome::Wait) => {
                    lock(&self.0.failing).remove(id);
                    return;
                }
                Ok(Outcome::Retry(problem)) => {
                    debug!(workspace = %id, problem, "step failed; trying again soon");
                    lock(&self.0.failing).insert(id.clone(), problem);
                    return;
                }
                Err(error) => {
                    warn!(workspace = %id, %error, "failed to read or write the workspace; trying again soon");
                    lock(&self.0.failing).insert(id.clone(), error.to_string());
                    return;
                }
            }
        }
    }

    async fn advance(&self, id: &WorkspaceId, wake: &Notify) -> Result<Outcome, Error> {
        // What was seen counts first, also if it could not be stored when it was reported.
        let report = lock(&self.0.reports).get(id).cloned();
        let workspace = match &report {
            Some(report) => self.store_report(id, report).await?,
            None => self.0.transitions.store().workspace(id).await?,
        };
        let Some(workspace) = workspace else { return Ok(Outcome::Wait) };
        if self.timed_out(&workspace).await? {
            return Ok(Outcome::Progressed);
        }
        let step = workspace.lifecycle.next_step(report.as_ref().map(|report| &report.observed));
        let due = report.filter(|report| step == Step::Wait && self.needs_delivery(&workspace, report));
        if step == Step::Wait && due.is_none() {
            return Ok(Outcome::Wait);
        }
        let perform = async {
            match &due {
                Some(report) => self.deliver(&workspace, report).await,
                None => self.perform(step, &workspace).await,
            }
        };
        tokio::pin!(perform);
        loop {
            tokio::select! {
                outcome = &mut perform => return outcome,
                // A newer request: the call in progress is dropped, and the node refuses it once the newer
                // one is there.
                () = self.superseded(step, &workspace, wake) => return Ok(Outcome::Progressed),
                () = tokio::time::sleep(STEP_CHECK_INTERVAL) => {
                    if self.timed_out(&workspace).await? {
                        return Ok(Outcome::Progressed);
                    }
                }
            }
        }
    }

    async fn timed_out(&self, workspace: &Workspace) -> Result<bool, Error> {
        let late = |workspace: &Workspace, now: Timestamp| {
            let elapsed = self.0.timer.elapsed(&workspace.id, &workspace.lifecycle, Instant::now());
            workspace.lifecycle.time_out(elapsed, now, &self.0.timeouts)
        };
        if late(workspace, crate::clock::now()).is_none() {
            return Ok(false);
        }
        let problem = lock(&self.0.failing).get(&workspace.id).cloned();
        let moved = self.0.transitions.change::<Error>(&workspace.id, None, |workspace, now| {
            let mut lifecycle = late(workspace, now);
            if let (Some(failure), Some(problem)) =
                (lifecycle.as_mut().and_then(|l| l.failure.as_mut()), &problem)
            {
                failure.message = format!("{} (last problem: {problem})", failure.message);
            }
            Ok(lifecycle)
        });
        Ok(moved.await?.is_some_and(|after| after.lifecycle.status == Status::Failed))
    }

    async fn superseded(&self, step: Step, previous: &Workspace, wake: &Notify) {
        loop {
            wake.notified().await;
            match self.0.transitions.store().workspace(&previous.id).await {
                Ok(Some(now))
                    if now.lifecycle.generation == previous.lifecycle.generation
                        && (step != Step::Stop || now.lifecycle.status == previous.lifecycle.status) => {}
                Ok(_) => return,
                Err(error) => warn!(workspace = %previous.id, %error, "failed to read the workspace"),
            }
        }
    }

    async fn perform(&self, step: Step, workspace: &Workspace) -> Result<Outcome, Error> {
        let done = match step {
            Step::Wait => return Ok(Outcome::Wait),
            Step::Provision => match self.0.node.provision(workspace).await {
                Ok(()) => return self.store_result(workspace, Lifecycle::disk_created).await,
                Err(error) => Err(error),
            },
            Step::Start => {
                let metadata = self.metadata(workspace).await?;
                let Some(network) = self.0.networks.policy(&workspace.id)? else { return Ok(Outcome::Wait) };
                let disk = self.0.limits.of_disk(&workspace.id)?;
                let revision = network.0;
                let started = self.0.node.start(workspace, metadata, network, disk).await;
                if let Ok((_, latest)) = &started
                    && *latest > revision
                {
                    // The node has worked for a newer database than this one, which was restored.
                    self.0.transitions.store().raise_network_revision(&workspace.id, *latest).await?;
                }
                match started.map(|(started, _)| started) {
                    Ok(Started::Queued(position)) => {
                        // The time to start counts from the boot.
                        self.0.timer.forget(&workspace.id);
                        return Ok(Outcome::Retry(format!("{position} boots have to end before this one")));
                    }
                    Ok(Started::Booting(boot)) => {
                        self.store_result(workspace, |lifecycle, _| lifecycle.boot_started(&boot)).await?;
                        // Generated while the VM boots, so that it causes no wait later.
                        self.0.secret_delivery.prepare(&workspace.id, &boot).await?;
                        // The report that the agent answered may have come before.
                        return Ok(Outcome::Progressed);
                    }
                    Err(error) => Err(error),
                }
            }
            Step::Stop => self.stop(workspace).await,
            Step::Delete => match self.0.node.delete(&workspace.id, workspace.lifecycle.generation).await {
                Ok(()) => return self.remove(workspace).await,
                Err(error) => Err(error),
            },
        };
        match done {
            Ok(outcome) => Ok(outcome),
            Err(error) => self.refused(step, workspace, error).await,
        }
    }

    /// Requests a stop and checks whether the VM has ended already, in which case no report may follow.
    async fn stop(&self, workspace: &Workspace) -> Result<Outcome, NodeError> {
        self.0.node.stop(&workspace.id, workspace.lifecycle.generation).await?;
        let mut report = self.0.node.report_of(&workspace.id).await?;
        if matches!(report.observed, ObservedState::Resting { .. } | ObservedState::Absent) {
            // The query followed the node's response to the stop, so the report is about this generation,
            // whatever led to it.
            report.generation = report.generation.max(workspace.lifecycle.generation);
            lock(&self.0.reports).insert(workspace.id.clone(), report.clone());
            self.apply(&workspace.id, &report).await;
            return Ok(Outcome::Wait);
        }
        // The report of the end interrupts this wait by a new generation or status. Otherwise request the
        // stop again.
        tokio::time::sleep(STOP_RETRY_INTERVAL).await;
        Ok(Outcome::Progressed)
    }

    async fn remove(&self, workspace: &Workspace) -> Result<Outcome, Error> {
        if !self.0.transitions.store().remove_workspace(workspace).await? {
            return Ok(Outcome::Progressed);
        }
        lock(&self.0.reports).remove(&workspace.id);
        self.0.timer.forget(&workspace.id);
        self.0.secret_delivery.remove(&workspace.id);
        self.0.transitions.announce(&workspace.id);
        Ok(Outcome::Wait)
    }

    async fn refused(&self, step: Step, workspace: &Workspace, error: NodeError) -> Result<Outcome, Error> {
        let (code, message) = match error {
            NodeError::Unreachable(_) => return Ok(Outcome::Retry(error.to_string())),
            NodeError::Refused { code, message } => (code, message),
        };
        match (step, code.as_str()) {
            // The database lags behind the node: the node's report raises our generation.
            (_, "stale_generation") => {
                if let Ok(report) = self.0.node.report_of(&workspace.id).await {
                    let next = Report { generation: report.generation.saturating_add(1), ..report };
                    self.apply(&workspace.id, &next).await;
                }
                Ok(Outcome::Retry(message))
            }
            (Step::Stop, "not_found") => {
                let gone =
                    Report { generation: workspace.lifecycle.generation, observed: ObservedState::Absent };
                lock(&self.0.reports).remove(&workspace.id);
                self.apply(&workspace.id, &gone).await;
                Ok(Outcome::Wait)
            }
            (Step::Provision | Step::Start, _) => {
                warn!(workspace = %workspace.id, ?step, code, message, "the node refused a step");
                self.store_result(workspace, |lifecycle, now| lifecycle.step_failed(&code, &message, now))
                    .await
            }
            _ => Ok(Outcome::Retry(format!("{code}: {message}"))),
        }
    }

    /// Stores the result of a step, unless the requested state has changed meanwhile.
    async fn store_result(
        &self,
        requested: &Workspace,
        next: impl Fn(&Lifecycle, Timestamp) -> Lifecycle,
    ) -> Result<Outcome, Error> {
        self.0
            .transitions
            .change::<Error>(&requested.id, None, |workspace, now| {
                let same = workspace.lifecycle.generation == requested.lifecycle.generation;
                Ok(same.then(|| next(&workspace.lifecycle, now)))
            })
            .await?;
        Ok(Outcome::Progressed)
    }

    /// Returns the metadata that the VM may read about itself.
    async fn metadata(&self, workspace: &Workspace) -> Result<String, Error> {
        let owner = self.0.transitions.store().user(&workspace.user_id).await?;
        let metadata = serde_json::json!({
            "id": workspace.id.as_str(),
            "name": workspace.name.as_str(),
            "owner_email": owner.map(|owner| owner.email),
            "api_url": self.0.api_url,
        });
        Ok(metadata.to_string())
    }
}
