//! Timing of secret delivery: before a workspace counts as running, and whenever its environment differs from
//! what its boot has.

use rigbox_core::lifecycle::{ObservedState, Report};
use rigbox_core::status::Status;
use rigbox_store::{Error, Workspace};

use super::worker::Outcome;
use super::{Reconciler, lock};

impl Reconciler {
    /// Returns whether the reported boot lacks secrets. An agent that does not respond gets them when it is
    /// back.
    pub fn needs_delivery(&self, workspace: &Workspace, report: &Report) -> bool {
        let ObservedState::Running { boot, agent_lost: false, .. } = &report.observed else { return false };
        let lifecycle = &workspace.lifecycle;
        matches!(lifecycle.status, Status::Starting | Status::Running)
            && lifecycle.boot.as_ref() == Some(boot)
            && !self.0.secret_delivery.is_delivered(&workspace.id, boot, workspace.environment.revision)
    }

    /// Delivers the boot's secrets; then the workspace is running. A failure is retried until the start times
    /// out.
    pub async fn deliver(&self, workspace: &Workspace, report: &Report) -> Result<Outcome, Error> {
        let Some(boot) = &workspace.lifecycle.boot else { return Ok(Outcome::Wait) };
        if let Err(error) = self.0.secret_delivery.deliver(&workspace.id, boot).await? {
            return Ok(Outcome::Retry(format!("failed to deliver secrets: {error}")));
        }
        let run = |of: &Workspace, now| Ok(of.lifecycle.observe(report, now));
        self.0.transitions.change::<Error>(&workspace.id, None, run).await?;
        self.0.secret_delivery.finish(&workspace.id, boot).await?;
        // A report that arrived meanwhile was applied to a workspace that was still starting.
        let latest = lock(&self.0.reports).get(&workspace.id).cloned();
        if let Some(latest) = latest.filter(|latest| latest != report) {
            self.apply(&workspace.id, &latest).await;
        }
        Ok(Outcome::Progressed)
    }
}
