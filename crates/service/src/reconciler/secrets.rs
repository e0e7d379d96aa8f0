//! Timing of secret delivery: before a workspace counts as running, and whenever its environment differs from
//! what its boot has.

use rigbox_core::lifecycle::{Delivered, Lifecycle, VmPhase};
use rigbox_store::{Error, Step, Workspace};

use super::Reconciler;
use super::outcome::Outcome;

impl Reconciler {
    /// Generates the key of a boot while it boots, so that it causes no wait later.
    pub(super) async fn prepare_key(&self, workspace: &Workspace) -> Result<(), Error> {
        match booting(&workspace.lifecycle) {
            Some(boot) => self.0.secret_delivery.prepare(&workspace.id, boot).await,
            None => Ok(()),
        }
    }

    /// Delivers the secrets of a boot; then the workspace is running. A failure is retried until the start times
    /// out.
    pub(super) async fn deliver(&self, workspace: &Workspace, boot: &str) -> Result<Outcome, Error> {
        let id = &workspace.id;
        let delivered = self.0.secret_delivery.deliver(id, boot);
        let revision = match self.0.transitions.store().perform(Step::Deliver, delivered).await? {
            Ok(Some(revision)) => revision,
            Ok(None) => return Ok(Outcome::Progressed),
            Err(error) => return Ok(Outcome::Retry(format!("failed to deliver secrets: {error}"))),
        };
        let deliver = |of: &Workspace, now| {
            let delivered = Delivered { boot: boot.to_owned(), revision };
            let is_same = of.lifecycle.boot() == Some(boot);
            Ok(is_same.then(|| of.lifecycle.delivered(delivered, now)))
        };
        self.0.transitions.change::<Error>(id, None, deliver).await?;
        self.0.secret_delivery.forget_key(id);
        Ok(Outcome::Progressed)
    }
}

/// Returns the boot that answers and lacks its secrets. An agent that does not answer gets them when it is back.
pub(super) fn lacks_secrets(workspace: &Workspace) -> Option<&str> {
    let boot = workspace.lifecycle.answering_boot()?;
    let has = workspace.lifecycle.delivered.as_ref().filter(|delivered| delivered.boot == boot);
    (has.map(|has| has.revision) != Some(workspace.environment.revision)).then_some(boot)
}

/// Returns the boot whose agent has not answered yet. One that has its secrets keeps its key: its node may have lost sight of it for a
/// while.
fn booting(lifecycle: &Lifecycle) -> Option<&str> {
    let boot = lifecycle.boot()?;
    let is_booting = lifecycle.observed.vm.as_ref().is_some_and(|vm| vm.phase == VmPhase::Booting);
    let has_secrets = lifecycle.delivered.as_ref().is_some_and(|delivered| delivered.boot == boot);
    (is_booting && !has_secrets).then_some(boot)
}
