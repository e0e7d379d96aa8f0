//! State of a workspace. What is wanted and what was observed are two records; the status that users see is a function of them
//! ([`Lifecycle::status_now`]).
//!
//! User requests change what is wanted ([`Lifecycle::request`]), and node reports replace what was observed ([`Lifecycle::observe`]). A
//! report changes what is wanted in two cases only: the VM has ended for good by itself, and the database lags behind the node because it
//! was restored from a backup. Time ends what does not get on ([`Lifecycle::time_out`]). Each returns a new value. The caller stores it, and
//! only if nobody else changed the workspace meanwhile.

use std::time::Duration;

use crate::status::{Request, Status};
use crate::system::SystemState;
use crate::time::Timestamp;

mod end;
mod observed;
mod target;

pub use end::{End, EndCause};
pub use observed::{Disk, Observed, ReportOrder, Vm, VmPhase};
pub use target::{Desired, Facts, Step, Target, VmFacts};

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
    /// Target that is wanted of the node.
    pub wanted: Target,
    /// True once a start was requested.
    pub was_started: bool,
    /// State that the node last reported.
    pub observed: Observed,
    /// True once the node has created the disk. Later it is never created anew.
    pub has_disk: bool,
    /// Secrets that the VM has.
    pub delivered: Option<Delivered>,
    /// Present exactly in `failed`.
    pub failure: Option<Failure>,
    /// Current status.
    pub status: Status,
    /// Time at which the status was entered.
    pub since: Timestamp,
    /// Failures since the workspace last ran or was created.
    pub attempts: u32,
}

/// Secrets that a VM has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// Id of its boot.
    pub boot: String,
    /// Revision of the environment.
    pub revision: i64,
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

impl Lifecycle {
    /// Creates the state of a new workspace.
    pub fn created(now: Timestamp) -> Self {
        Self {
            wanted: Target { generation: 1, state: Desired::Stopped },
            was_started: false,
            observed: Observed::nothing(),
            has_disk: false,
            delivered: None,
            failure: None,
            status: Status::Provisioning,
            since: now,
            attempts: 0,
        }
    }

    /// Creates the state of a workspace whose disk a node has, and which the database did not have.
    pub fn adopted(generation: u64, now: Timestamp) -> Self {
        let wanted = Target { generation, state: Desired::Stopped };
        let observed = Observed { target: wanted, disk: Disk::Complete, ..Observed::nothing() };
        let status = Status::Stopped;
        Self { wanted, was_started: true, observed, has_disk: true, status, ..Self::created(now) }
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

    /// Returns the id of the current boot, once the node has named it.
    pub fn boot(&self) -> Option<&str> {
        self.current_vm().map(|vm| vm.boot.as_str())
    }

    /// Returns whether the agent of the running VM has stopped answering.
    pub fn agent_lost(&self) -> bool {
        self.status == Status::Running
            && matches!(self.current_vm(), Some(Vm { phase: VmPhase::Running { agent_lost: true, .. }, .. }))
    }

    /// Returns the state of the system in the running VM; `starting` without one.
    pub fn system(&self) -> SystemState {
        match self.current_vm() {
            Some(Vm { phase: VmPhase::Running { system, .. }, .. }) if self.status == Status::Running => {
                *system
            }
            _ => SystemState::Starting,
        }
    }

    /// Returns the boot whose agent answers, and which the secrets are for.
    pub fn answering_boot(&self) -> Option<&str> {
        match self.current_vm() {
            Some(Vm { boot, phase: VmPhase::Running { agent_lost: false, .. }, .. }) => Some(boot),
            _ => None,
        }
    }

    /// Returns whether the node holds the wanted target.
    pub fn is_acknowledged(&self) -> bool {
        self.observed.target.generation >= self.wanted.generation
    }

    /// Returns whether the workspace was deleted and its node has nothing of it any more.
    pub fn is_gone(&self) -> bool {
        self.wanted.state == Desired::Deleted && self.observed.is_absent() && self.is_acknowledged()
    }

    /// Applies a user's request.
    pub fn request(&self, request: Request, now: Timestamp) -> Result<Self, IllegalTransition> {
        let allowed = self.allowed();
        if !allowed.contains(&request) {
            return Err(IllegalTransition { request, status: self.status, allowed });
        }
        let mut next = self.clone();
        next.wanted.generation += 1;
        next.wanted.state = match request {
            Request::Start | Request::Retry => Desired::Running,
            Request::Cancel if self.status == Status::Provisioning => Desired::Deleted,
            Request::Stop | Request::Cancel => Desired::Stopped,
            Request::Delete => Desired::Deleted,
        };
        next.was_started |= next.wanted.state == Desired::Running;
        next.failure = None;
        Ok(next.entered(now))
    }

    /// Returns the state after a report, or `None` if it changes nothing.
    pub fn observe(&self, report: &Observed, now: Timestamp) -> Option<Self> {
        if !report.order.is_after(self.observed.order) {
            return None;
        }
        let mut next = self.clone();
        next.observed = report.clone();
        next.has_disk |= report.disk == Disk::Complete;
        let next = if report.is_absent() { next.on_absence(now) } else { next.on_report(now) };
        Some(next.entered(now))
    }

    /// Returns whether a later state differs in nothing but the record of what was observed, and not in the boot either.
    pub fn differs_in_record_only(&self, later: &Self) -> bool {
        let observed = later.observed.clone();
        self.boot() == later.boot() && Self { observed, ..self.clone() } == *later
    }

    /// Records that a boot has its secrets.
    pub fn delivered(&self, delivered: Delivered, now: Timestamp) -> Self {
        Self { delivered: Some(delivered), ..self.clone() }.entered(now)
    }

    /// Records that the node refuses the target. A stop or a deletion is tried again until it times out.
    pub fn refused(&self, code: &str, message: &str, now: Timestamp) -> Self {
        match self.status {
            Status::Provisioning | Status::Starting => self.given_up(code, message, now),
            _ => self.clone(),
        }
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
        Some(self.given_up(&code, &message, now))
    }

    /// Returns the status: a function of what is wanted and what was observed.
    pub fn status_now(&self) -> Status {
        if self.failure.is_some() {
            return Status::Failed;
        }
        match self.wanted.state {
            Desired::Deleted => Status::Deleting,
            Desired::Stopped if !self.has_disk && !self.was_started => Status::Provisioning,
            Desired::Stopped if !self.is_at_rest() => Status::Stopping,
            Desired::Stopped if self.was_started => Status::Stopped,
            Desired::Stopped => Status::Provisioned,
            Desired::Running => match self.current_vm() {
                Some(Vm { boot, phase: VmPhase::Running { .. }, .. }) if self.is_delivered(boot) => {
                    Status::Running
                }
                _ => Status::Starting,
            },
        }
    }

    fn current_vm(&self) -> Option<&Vm> {
        self.observed
            .vm
            .as_ref()
            .filter(|vm| self.wanted.state == Desired::Running && vm.generation == self.wanted.generation)
    }

    fn is_delivered(&self, boot: &str) -> bool {
        self.delivered.as_ref().is_some_and(|delivered| delivered.boot == boot)
    }

    /// Returns whether there is a disk without a VM, and none will be booted for an earlier target.
    fn is_at_rest(&self) -> bool {
        // Before the first report, nothing is known.
        let is_absent = self.observed.is_absent() && self.observed.order.session != 0;
        self.has_disk && self.observed.vm.is_none() && (self.is_acknowledged() || is_absent)
    }

    /// Draws conclusions from a report of a workspace that the node has.
    fn on_report(mut self, now: Timestamp) -> Self {
        let held = self.observed.target;
        let wanted = self.wanted.generation;
        let end =
            self.observed.end.clone().filter(|end| held.generation == wanted && end.generation == wanted);
        if let Some(end) = end {
            self = self.on_end(&end, now);
        }
        // A database that was restored from a backup lags behind the node, which would refuse what is wanted as outdated.
        self.wanted.generation = self.wanted.generation.max(held.generation);
        if held.generation == self.wanted.generation && held.state != self.wanted.state {
            self.wanted.generation += 1;
        }
        self
    }

    /// Draws conclusions from the end of what is wanted.
    fn on_end(mut self, end: &End, now: Timestamp) -> Self {
        let is_creation = end.cause == EndCause::Refused && !self.has_disk;
        let after = self.wanted.after_end(end.generation, end.cause);
        if self.failure.is_some() || (after == self.wanted && !is_creation) {
            return self;
        }
        self.wanted = after;
        let Some((code, text)) = end.cause.failure() else { return self };
        let code = if end.code.is_empty() { code } else { &end.code };
        let message = match (end.detail.as_str(), end.cause) {
            ("", _) => text.to_owned(),
            (detail, EndCause::Refused) => detail.to_owned(),
            (detail, _) => format!("{text}: {detail}"),
        };
        self.fail(code, message, now);
        self
    }

    /// Draws conclusions from the absence of a workspace on its node.
    fn on_absence(self, now: Timestamp) -> Self {
        if self.has_disk && self.wanted.state == Desired::Running {
            return self.given_up("ended_unobserved", "the node no longer knows this workspace", now);
        }
        self
    }

    /// Gives up what is wanted. The node ends what it has begun, but for a deletion: it goes on, because nothing can be done with what is
    /// left.
    fn given_up(&self, code: &str, message: &str, now: Timestamp) -> Self {
        let mut next = self.clone();
        if next.wanted.state != Desired::Deleted {
            next.wanted = Target { generation: self.wanted.generation + 1, state: Desired::Stopped };
        }
        next.fail(code, message.to_owned(), now);
        next.entered(now)
    }

    fn fail(&mut self, code: &str, message: String, now: Timestamp) {
        let retryable = self.wanted.state != Desired::Deleted;
        self.failure = Some(Failure { code: code.to_owned(), message, retryable, occurred_at: now });
    }

    /// Enters the status that follows. Staying in the current one keeps its age, so that a guest in a reboot loop times out.
    fn entered(mut self, now: Timestamp) -> Self {
        let status = self.status_now();
        if self.status != status {
            self.since = now;
            match status {
                Status::Failed => self.attempts = self.attempts.saturating_add(1),
                Status::Running | Status::Provisioned => self.attempts = 0,
                _ => {}
            }
        }
        self.status = status;
        self
    }
}

#[cfg(test)]
mod tests;
