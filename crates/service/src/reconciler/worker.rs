//! One worker's look at one workspace: what is due, done until nothing is.

use std::time::Duration;

use rigbox_core::ids::WorkspaceId;
use rigbox_core::lifecycle::{Lifecycle, ObservedState, Report, Step};
use rigbox_core::status::Status;
use rigbox_core::time::Timestamp;
use rigbox_store::{Error, Workspace};
use tokio::sync::Notify;
use tracing::{debug, warn};

use super::{Reconciler, lock};
use crate::nodes::client::NodeError;

/// A stop that shows no effect is requested for again after this.
const STOP_RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// A verb is given up now and then to look at the clock.
const STEP_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// What a step came to.
pub enum Outcome {
    /// Look again at once.
    Moved,
    /// Wait for a report or a request.
    Wait,
    /// Try again at the next tick.
    Later(String),
}

impl Reconciler {
    pub async fn work(&self, id: &WorkspaceId, wake: &Notify) {
        loop {
            match self.advance(id, wake).await {
                Ok(Outcome::Moved) => {}
                Ok(Outcome::Wait) => {
                    lock(&self.0.failing).remove(id);
                    return;
                }
                Ok(Outcome::Later(trouble)) => {
                    debug!(workspace = %id, trouble, "trying again soon");
                    lock(&self.0.failing).insert(id.clone(), trouble);
                    return;
                }
                Err(error) => {
                    warn!(workspace = %id, %error, "cannot read or write its state; trying again soon");
                    lock(&self.0.failing).insert(id.clone(), error.to_string());
                    return;
                }
            }
        }
    }

    async fn advance(&self, id: &WorkspaceId, wake: &Notify) -> Result<Outcome, Error> {
        let Some(workspace) = self.0.transitions.store().workspace(id).await? else {
            return Ok(Outcome::Wait);
        };
        if self.timed_out(&workspace).await? {
            return Ok(Outcome::Moved);
        }
        let report = lock(&self.0.reports).get(id).cloned();
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
                // A newer intention: the verb under way is dropped, and refused by the node once the newer one is there.
                () = self.superseded(step, &workspace, wake) => return Ok(Outcome::Moved),
                () = tokio::time::sleep(STEP_CHECK_INTERVAL) => {
                    if self.timed_out(&workspace).await? {
                        return Ok(Outcome::Moved);
                    }
                }
            }
        }
    }

    async fn timed_out(&self, workspace: &Workspace) -> Result<bool, Error> {
        let late = |lifecycle: &Lifecycle, now: Timestamp| {
            lifecycle.time_out(now, self.0.started_at, &self.0.timeouts)
        };
        if late(&workspace.lifecycle, crate::clock::now()).is_none() {
            return Ok(false);
        }
        let trouble = lock(&self.0.failing).get(&workspace.id).cloned();
        let moved = self.0.transitions.change::<Error>(&workspace.id, None, |workspace, now| {
            let mut lifecycle = late(&workspace.lifecycle, now);
            if let (Some(failure), Some(trouble)) =
                (lifecycle.as_mut().and_then(|l| l.failure.as_mut()), &trouble)
            {
                failure.message = format!("{} (last: {trouble})", failure.message);
            }
            Ok(lifecycle)
        });
        Ok(moved.await?.is_some_and(|after| after.lifecycle.status == Status::Failed))
    }

    async fn superseded(&self, step: Step, seen: &Workspace, wake: &Notify) {
        loop {
            wake.notified().await;
            match self.0.transitions.store().workspace(&seen.id).await {
                Ok(Some(now))
                    if now.lifecycle.generation == seen.lifecycle.generation
                        && (step != Step::Stop || now.lifecycle.status == seen.lifecycle.status) => {}
                Ok(_) => return,
                Err(error) => warn!(workspace = %seen.id, %error, "cannot read its state"),
            }
        }
    }

    async fn perform(&self, step: Step, workspace: &Workspace) -> Result<Outcome, Error> {
        let done = match step {
            Step::Wait => return Ok(Outcome::Wait),
            Step::Provision => match self.0.node.provision(workspace).await {
                Ok(()) => return self.settle(workspace, Lifecycle::disk_created).await,
                Err(error) => Err(error),
            },
            Step::Start => {
                let about = self.about(workspace).await?;
                let network = self.0.networks.policy(&workspace.id)?;
                match self.0.node.start(workspace, about, network).await {
                    Ok(boot) => {
                        self.settle(workspace, |lifecycle, _| lifecycle.boot_started(&boot)).await?;
                        // While it boots, so that nobody waits for it later.
                        self.0.secret_delivery.prepare(&workspace.id, &boot).await?;
                        // The report that the agent has answered may have come before.
                        return Ok(Outcome::Moved);
                    }
                    Err(error) => Err(error),
                }
            }
            Step::Stop => self.stop(workspace).await,
            Step::Delete => match self.0.node.delete(&workspace.id, workspace.lifecycle.generation).await {
                Ok(()) => return self.forget(workspace).await,
                Err(error) => Err(error),
            },
        };
        match done {
            Ok(outcome) => Ok(outcome),
            Err(error) => self.refused(step, workspace, error).await,
        }
    }

    /// Asks for the end and looks whether it has come already: then no report may follow.
    async fn stop(&self, workspace: &Workspace) -> Result<Outcome, NodeError> {
        self.0.node.stop(workspace).await?;
        let mut report = self.0.node.look(&workspace.id).await?;
        if matches!(report.observed, ObservedState::Resting { .. } | ObservedState::Absent) {
            // It was requested for after the stop was answered, so it is about this generation, whatever led to it.
            report.generation = report.generation.max(workspace.lifecycle.generation);
            lock(&self.0.reports).insert(workspace.id.clone(), report.clone());
            self.apply(&workspace.id, &report).await;
            return Ok(Outcome::Wait);
        }
        // The report of the end ends this wait by a new generation or status; otherwise ask again.
        tokio::time::sleep(STOP_RETRY_INTERVAL).await;
        Ok(Outcome::Moved)
    }

    async fn forget(&self, workspace: &Workspace) -> Result<Outcome, Error> {
        if !self.0.transitions.store().remove_workspace(workspace).await? {
            return Ok(Outcome::Moved);
        }
        lock(&self.0.reports).remove(&workspace.id);
        self.0.secret_delivery.forget(&workspace.id);
        self.0.transitions.announce(&workspace.id);
        Ok(Outcome::Wait)
    }

    async fn refused(&self, step: Step, workspace: &Workspace, error: NodeError) -> Result<Outcome, Error> {
        let (code, message) = match error {
            NodeError::Unreachable(_) => return Ok(Outcome::Later(error.to_string())),
            NodeError::Refused { code, message } => (code, message),
        };
        match (step, code.as_str()) {
            // The database lags behind the node: what it says raises our generation.
            (_, "stale_generation") => {
                if let Ok(report) = self.0.node.look(&workspace.id).await {
                    let next = Report { generation: report.generation.saturating_add(1), ..report };
                    self.apply(&workspace.id, &next).await;
                }
                Ok(Outcome::Later(message))
            }
            (Step::Stop, "not_found") => {
                let gone =
                    Report { generation: workspace.lifecycle.generation, observed: ObservedState::Absent };
                lock(&self.0.reports).remove(&workspace.id);
                self.apply(&workspace.id, &gone).await;
                Ok(Outcome::Wait)
            }
            (Step::Provision | Step::Start, _) => {
                warn!(workspace = %workspace.id, ?step, code, message, "the node cannot do it");
                self.settle(workspace, |lifecycle, now| lifecycle.step_failed(&code, &message, now)).await
            }
            _ => Ok(Outcome::Later(format!("{code}: {message}"))),
        }
    }

    /// Stores what a step came to, unless the intention has changed meanwhile.
    async fn settle(
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
        Ok(Outcome::Moved)
    }

    /// What the VM may know about itself.
    async fn about(&self, workspace: &Workspace) -> Result<String, Error> {
        let owner = self.0.transitions.store().user(&workspace.user_id).await?;
        let about = serde_json::json!({
            "id": workspace.id.as_str(),
            "name": workspace.name.as_str(),
            "owner_email": owner.map(|owner| owner.email),
            "api_url": self.0.api_url,
        });
        Ok(about.to_string())
    }
}
