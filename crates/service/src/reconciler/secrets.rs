//! When a workspace gets its secrets: before it counts as running, and whenever its environment is another than what its boot has.

use rigbox_core::lifecycle::{ObservedState, Report};
use rigbox_core::status::Status;
use rigbox_store::{Error, Workspace};

use super::worker::Outcome;
use super::{Reconciler, lock};

impl Reconciler {
    /// Whether the boot that the report tells of lacks something. An agent that does not answer is given it when it is back.
    pub fn needs_delivery(&self, workspace: &Workspace, report: &Report) -> bool {
        let ObservedState::Running { boot, agent_lost: false } = &report.observed else { return false };
        let lifecycle = &workspace.lifecycle;
        matches!(lifecycle.status, Status::Starting | Status::Running)
            && lifecycle.boot.as_ref() == Some(boot)
            && !self.0.secret_delivery.is_delivered(&workspace.id, boot, workspace.environment.revision)
    }

    /// Hands the boot its secrets; then it runs. What fails is tried again for as long as it may be starting.
    pub async fn deliver(&self, workspace: &Workspace, report: &Report) -> Result<Outcome, Error> {
        let Some(boot) = &workspace.lifecycle.boot else { return Ok(Outcome::Wait) };
        if let Err(error) = self.0.secret_delivery.deliver(&workspace.id, boot).await? {
            return Ok(Outcome::Later(format!("its secrets cannot be delivered: {error}")));
        }
        let run = |of: &Workspace, now| Ok(of.lifecycle.observe(report, now));
        self.0.transitions.change::<Error>(&workspace.id, None, run).await?;
        self.0.secret_delivery.finish(&workspace.id, boot).await?;
        // A report that came meanwhile has met a workspace that was still starting.
        let latest = lock(&self.0.reports).get(&workspace.id).cloned();
        if let Some(latest) = latest.filter(|latest| latest != report) {
            self.apply(&workspace.id, &latest).await;
        }
        Ok(Outcome::Moved)
    }
}
