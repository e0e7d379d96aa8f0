//! State machine of a workspace: its transitions, and the next step for the node.
//!
//! Three things drive it: user requests ([`Lifecycle::request`]), node reports ([`Lifecycle::observe`] and
//! the results of node calls), and time ([`Lifecycle::time_out`]). Each returns a new value. The caller
//! stores it, and only if nobody else changed the workspace meanwhile.
//!
//! The generation counts requested changes. The node refuses calls of an older generation, so raising it
//! fences off whatever is still in flight for the previous one.

use std::time::Duration;

use crate::status::{Request, Status};
use crate::system::SystemState;
use crate::time::Timestamp;

mod observe;

pub use observe::{End, EndCause, ObservedState, Report};

/// Desired state of a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Desired {
    /// A disk without a VM.
    Stopped,
    /// A running VM.
    Running,
    /// Nothing.
    Deleted,
}

/// Details of the status `failed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Stable code in snake case.
    pub code: String,
    /// Message for people.
    pub message: String,
    /// True if `retry` can help.
    pub retryable: bool,
    /// Time of the failure.
    pub occurred_at: Timestamp,
}

/// State of a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lifecycle {
    /// Current status.
    pub status: Status,
    /// Time at which the status was entered.
    pub since: Timestamp,
    /// Desired state.
    pub desired: Desired,
    /// Number of requested changes.
    pub generation: u64,
    /// True if the node has created the disk.
    pub has_disk: bool,
    /// Current boot, once the node has named it.
    pub boot: Option<String>,
    /// Previous boot, whose late reports are ignored.
    pub last_boot: Option<String>,
    /// True if the agent of the running boot has stopped answering.
    pub agent_lost: bool,
    /// State of the system in the running boot; `starting` without one.
    pub system: SystemState,
    /// Present exactly in `failed`.
    pub failure: Option<Failure>,
    /// Failures since the workspace last ran or was created.
    pub attempts: u32,
}

/// Request that the current status does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Cannot {request} a workspace that is `{status}`. {}", allowed_text(.allowed))]
pub struct IllegalTransition {
    /// The request.
    pub request: Request,
    /// Status at the time of the request.
    pub status: Status,
    /// Requests allowed in that status.
    pub allowed: Vec<Request>,
}

fn allowed_text(allowed: &[Request]) -> String {
    match allowed {
        [] => "Wait until the current operation finishes.".to_owned(),
        some => format!("Allowed: {}.", some.iter().map(|r| r.as_str()).collect::<Vec<_>>().join(" or ")),
    }
}

/// Maximum duration of each transient status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Creation of the disk.
    pub provisioning: Duration,
    /// From the request to the agent's first answer.
    pub starting: Duration,
    /// Orderly shutdown, including the kill after the grace period.
    pub stopping: Duration,
    /// Ending the VM and removing every trace.
    pub deleting: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            provisioning: Duration::from_secs(120),
            starting: Duration::from_secs(180),
            stopping: Duration::from_secs(90),
            deleting: Duration::from_secs(120),
        }
    }
}

/// Next request to the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// None: wait for a report or a request.
    Wait,
    /// Create the disk.
    Provision,
    /// Boot the VM.
    Start,
    /// Shut the VM down.
    Stop,
    /// Remove every trace.
    Delete,
}

impl Lifecycle {
    /// Creates the state of a new workspace.
    pub fn created(now: Timestamp) -> Self {
        Self {
            status: Status::Provisioning,
            since: now,
            desired: Desired::Stopped,
            generation: 1,
            has_disk: false,
            boot: None,
            last_boot: None,
            agent_lost: false,
            system: SystemState::Starting,
            failure: None,
            attempts: 0,
        }
    }

    /// Creates the state of a workspace whose disk a node has, and which the database did not have.
    pub fn adopted(generation: u64, now: Timestamp) -> Self {
        Self { status: Status::Stopped, generation, has_disk: true, ..Self::created(now) }
    }

    /// Returns the requests currently allowed.
    pub fn allowed(&self) -> Vec<Request> {
        let permanent = self.failure.as_ref().is_some_and(|failure| !failure.retryable);
        self.status
            .allowed()
            .iter()
            .copied()
            .filter(|request| !(permanent && *request == Request::Retry))
            .collect()
    }

    /// Applies a user's request.
    pub fn request(&self, request: Request, now: Timestamp) -> Result<Self, IllegalTransition> {
        let allowed = self.allowed();
        if !allowed.contains(&request) {
            return Err(IllegalTransition { request, status: self.status, allowed });
        }
        let (status, desired) = match request {
            Request::Start | Request::Retry => (Status::Starting, Desired::Running),
            Request::Cancel if self.status == Status::Provisioning => (Status::Deleting, Desired::Deleted),
            Request::Stop | Request::Cancel => (Status::Stopping, Desired::Stopped),
            Request::Delete => (Status::Deleting, Desired::Deleted),
        };
        let mut next = self.clone();
        next.desired = desired;
        next.generation += 1;
        if status == Status::Starting {
            next.clear_boot();
        }
        next.enter(status, now);
        Ok(next)
    }

    /// Records that the node has created the disk.
    pub fn disk_created(&self, now: Timestamp) -> Self {
        let mut next = self.clone();
        next.has_disk = true;
        if next.status == Status::Provisioning {
            next.attempts = 0;
            next.enter(Status::Provisioned, now);
        }
        next
    }

    /// Records that the node has started to boot the VM.
    pub fn boot_started(&self, boot: &str) -> Self {
        let mut next = self.clone();
        if next.status == Status::Starting && next.boot.is_none() {
            next.boot = Some(boot.to_owned());
        }
        next
    }

    /// Records that the node refused or failed the current step.
    pub fn step_failed(&self, code: &str, message: &str, now: Timestamp) -> Self {
        if self.status.is_transient() { self.failed(code, message, now) } else { self.clone() }
    }

    /// Returns the failed state if a transient status has lasted for longer than its timeout.
    pub fn time_out(&self, elapsed: Duration, now: Timestamp, timeouts: &Timeouts) -> Option<Self> {
        let limit = match self.status {
            Status::Provisioning => timeouts.provisioning,
            Status::Starting => timeouts.starting,
            Status::Stopping => timeouts.stopping,
            Status::Deleting => timeouts.deleting,
            Status::Provisioned | Status::Running | Status::Stopped | Status::Failed => return None,
        };
        if elapsed < limit {
            return None;
        }
        let code = format!("timeout_{}", self.status);
        let message = format!("The workspace is still {} after {} s.", self.status, limit.as_secs());
        Some(self.failed(&code, &message, now))
    }

    /// Returns the next request to the node, given its latest report about this workspace.
    pub fn next_step(&self, observed: Option<&ObservedState>) -> Step {
        let alive = observed.is_some_and(ObservedState::is_alive);
        match self.status {
            Status::Provisioning => Step::Provision,
            Status::Starting if !self.has_disk => Step::Provision,
            Status::Starting if self.boot.is_none() => Step::Start,
            Status::Starting | Status::Running => Step::Wait,
            Status::Stopping => Step::Stop,
            Status::Deleting => Step::Delete,
            // Nothing keeps running that is not wanted.
            Status::Provisioned | Status::Stopped | Status::Failed if alive => Step::Stop,
            Status::Provisioned | Status::Stopped | Status::Failed => Step::Wait,
        }
    }

    fn clear_boot(&mut self) {
        if let Some(boot) = self.boot.take() {
            self.last_boot = Some(boot);
        }
        self.agent_lost = false;
        self.system = SystemState::Starting;
    }

    /// Enters a status. Re-entering the current one keeps its age, so that a guest in a reboot loop times
    /// out.
    fn enter(&mut self, status: Status, now: Timestamp) {
        if self.status != status {
            self.since = now;
        }
        self.status = status;
        if status != Status::Failed {
            self.failure = None;
        }
        if status != Status::Running {
            self.agent_lost = false;
            self.system = SystemState::Starting;
        }
    }

    /// Enters `failed` with a new generation, so that whatever is in flight at the node is refused, or ended
    /// by the `Stop` that follows.
    fn failed(&self, code: &str, message: &str, now: Timestamp) -> Self {
        let mut next = self.clone();
        // A half-deleted workspace cannot be started.
        let retryable = self.desired != Desired::Deleted;
        next.desired = Desired::Stopped;
        next.generation += 1;
        next.attempts = next.attempts.saturating_add(1);
        next.enter(Status::Failed, now);
        next.failure =
            Some(Failure { code: code.to_owned(), message: message.to_owned(), retryable, occurred_at: now });
        next
    }
}

#[cfg(test)]
mod tests;
