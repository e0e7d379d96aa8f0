//! Worker of one workspace: does what is due until nothing is. It sees to it that the node holds the target; the steps towards that are the
//! node's.

use std::time::Duration;

use rigbox_core::ids::WorkspaceId;
use rigbox_core::lifecycle::{Desired, Lifecycle};
use rigbox_core::status::Status;
use rigbox_core::time::Timestamp;
use rigbox_store::{Error, Step, Workspace};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::outcome::Outcome;
use super::secrets::lacks_secrets;
use super::{Reconciler, lock};
use crate::nodes::api::NodeError;

/// Interval at which a step in progress is checked for its timeout.
const STEP_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Step that is due for a workspace.
enum Due<'a> {
    /// The node has to hold the target.
    Push,
    /// This boot has to get its secrets.
    Deliver(&'a str),
}

impl Reconciler {
    /// Performs steps until there is nothing to do.
    pub(super) async fn work(&self, id: &WorkspaceId, wake: &Notify) {
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
        if let Outcome::Retry(problem) = self.store_remembered(id).await? {
            return Ok(Outcome::Retry(problem));
        }
        let Some(workspace) = self.0.transitions.store().workspace(id).await? else {
            return Ok(Outcome::Wait);
        };
        if self.timed_out(&workspace).await? {
            return Ok(Outcome::Progressed);
        }
        if workspace.lifecycle.is_gone() {
            return self.remove(&workspace).await;
        }
        // Without a session, nobody can tell how the node's answers are in order.
        let Some(session) = self.0.node.session() else { return Ok(Outcome::Wait) };
        self.prepare_key(&workspace).await?;
        let due = match lacks_secrets(&workspace) {
            _ if needs_push(&workspace.lifecycle, session) => Due::Push,
            Some(boot) => Due::Deliver(boot),
            None => return Ok(Outcome::Wait),
        };
        let perform = async {
            match due {
                Due::Push => self.push(&workspace).await,
                Due::Deliver(boot) => self.deliver(&workspace, boot).await,
            }
        };
        tokio::pin!(perform);
        loop {
            tokio::select! {
                biased;
                outcome = &mut perform => return outcome,
                // A newer request: the call in progress is dropped, and the node ignores it once the newer one is there.
                () = self.superseded(&workspace, wake) => return Ok(Outcome::Progressed),
                () = tokio::time::sleep(STEP_CHECK_INTERVAL) => {
                    if self.timed_out(&workspace).await? {
                        return Ok(Outcome::Progressed);
                    }
                }
            }
        }
    }

    /// Returns whether a worker may have something to do for a workspace, or has to watch its time.
    pub(super) fn has_work(&self, workspace: &Workspace) -> bool {
        let Workspace { id, lifecycle, .. } = workspace;
        let is_due = || {
            lifecycle.is_gone()
                || lacks_secrets(workspace).is_some()
                || self.0.node.session().is_some_and(|session| needs_push(lifecycle, session))
        };
        let is_left = || lock(&self.0.failing).contains_key(id) || lock(&self.0.unstored).contains_key(id);
        lifecycle.status.is_transient() || is_due() || is_left()
    }

    async fn timed_out(&self, workspace: &Workspace) -> Result<bool, Error> {
        if self.0.node.queue_position(&workspace.id).is_some() {
            // The time to start counts from the boot.
            self.0.timer.forget(&workspace.id);
        }
        let late = |workspace: &Workspace, now: Timestamp| {
            let elapsed = self.0.timer.elapsed(&workspace.id, &workspace.lifecycle, Instant::now());
            workspace.lifecycle.time_out(elapsed, now, &self.0.timeouts)
        };
        if late(workspace, self.0.transitions.store().now()).is_none() {
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

    /// Returns once another target is wanted.
    async fn superseded(&self, previous: &Workspace, wake: &Notify) {
        loop {
            wake.notified().await;
            match self.0.transitions.store().workspace(&previous.id).await {
                Ok(Some(now)) if now.lifecycle.wanted == previous.lifecycle.wanted => {}
                Ok(_) => return,
                Err(error) => warn!(workspace = %previous.id, %error, "failed to read the workspace"),
            }
        }
    }

    /// Sets the target at the node, and applies the record that it answers with.
    async fn push(&self, workspace: &Workspace) -> Result<Outcome, Error> {
        let Some(request) = self.0.targets.request(workspace).await? else { return Ok(Outcome::Progressed) };
        let told = self.0.node.set_target(request);
        let report = match self.0.transitions.store().perform(Step::SetTarget, told).await {
            Ok(report) => report,
            Err(NodeError::Unreachable(problem)) => return Ok(Outcome::Retry(problem)),
            Err(NodeError::Refused { code, message }) => {
                return self.refused(workspace, &code, &message).await;
            }
        };
        let Some(after) = self.store_report(&report).await? else { return Ok(Outcome::Progressed) };
        let has_moved = after.lifecycle.wanted != workspace.lifecycle.wanted;
        let is_held = self.0.node.session().is_some_and(|session| !needs_push(&after.lifecycle, session));
        if has_moved || is_held {
            return Ok(Outcome::Progressed);
        }
        Ok(Outcome::Retry("the node does not hold the target yet".to_owned()))
    }

    async fn refused(&self, requested: &Workspace, code: &str, message: &str) -> Result<Outcome, Error> {
        let id = &requested.id;
        // Of a status that lasts, the refusal changes nothing, and follows at each tick.
        if requested.lifecycle.status.is_transient() {
            warn!(workspace = %id, code, message, "the node refused a target");
        }
        let refused = |workspace: &Workspace, now| {
            let is_same = workspace.lifecycle.wanted == requested.lifecycle.wanted;
            Ok(is_same.then(|| workspace.lifecycle.refused(code, message, now)))
        };
        self.0.transitions.change::<Error>(id, None, refused).await?;
        // What follows is as likely to be refused, so not at once.
        Ok(Outcome::Retry(format!("{code}: {message}")))
    }

    async fn remove(&self, workspace: &Workspace) -> Result<Outcome, Error> {
        let id = &workspace.id;
        let store = self.0.transitions.store();
        if !store.perform(Step::Remove, store.remove_workspace(workspace)).await? {
            return Ok(Outcome::Progressed);
        }
        lock(&self.0.unstored).remove(id);
        self.0.timer.forget(id);
        self.0.secret_delivery.forget_key(id);
        self.0.transitions.announce(id);
        Ok(Outcome::Wait)
    }
}

/// Returns whether the node has to be told the target: it does not hold it, or has said nothing of the workspace in this session.
fn needs_push(lifecycle: &Lifecycle, session: u64) -> bool {
    let Lifecycle { observed, wanted, has_disk, .. } = lifecycle;
    if observed.order.session != session {
        return true;
    }
    // A disk that is lost is not created anew. There is nothing to stop.
    let is_lost = *has_disk && observed.is_absent() && wanted.state == Desired::Stopped;
    !lifecycle.is_acknowledged() && !is_lost
}
