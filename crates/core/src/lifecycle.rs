//! The life of one workspace: every move between states, and what the node is to be asked for next.
//!
//! Three things move it: what users ask ([`Lifecycle::request`]), what the node reports ([`Lifecycle::observe`] and the
//! answers to its verbs), and time ([`Lifecycle::time_out`]). Each returns the new value; storing it, and storing it only
//! if nobody else was faster, is the caller's work.
//!
//! The generation counts intentions. The node refuses a verb of an older one, so raising it fences off whatever is
//! still under way for the intention before.

use std::time::Duration;

use crate::status::{Request, Status};
use crate::time::Moment;

mod observe;

pub use observe::{End, EndCause, Report, Seen};

/// What the user wants of a workspace in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Desired {
    /// A disk and no VM.
    Stopped,
    /// A VM.
    Running,
    /// Nothing at all.
    Deleted,
}

/// Why a workspace is in `failed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Stable, lower case with underscores.
    pub code: String,
    /// For people.
    pub message: String,
    /// Whether `retry` may help.
    pub retryable: bool,
    /// When it happened.
    pub occurred_at: Moment,
}

/// Where a workspace is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lifecycle {
    /// What it is doing.
    pub status: Status,
    /// When it began to.
    pub since: Moment,
    /// What is wanted.
    pub desired: Desired,
    /// Counts intentions.
    pub generation: u64,
    /// Whether the node has made its disk.
    pub has_disk: bool,
    /// The boot that runs or is under way, once the node has named it.
    pub boot: Option<String>,
    /// The boot before: reports about it are old news.
    pub last_boot: Option<String>,
    /// The agent of the running boot does not answer.
    pub agent_lost: bool,
    /// Set exactly in `failed`.
    pub failure: Option<Failure>,
    /// Failures since it last ran or was made.
    pub attempts: u32,
}

/// A request that the state does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot {request} a workspace that is `{status}`: {}", allowed_text(.allowed))]
pub struct IllegalMove {
    /// What was asked.
    pub request: Request,
    /// The state it was asked in.
    pub status: Status,
    /// What may be asked in it.
    pub allowed: Vec<Request>,
}

fn allowed_text(allowed: &[Request]) -> String {
    match allowed {
        [] => "nothing is allowed until it has ended by itself".to_owned(),
        some => format!("allowed is {}", some.iter().map(|r| r.as_str()).collect::<Vec<_>>().join(" or ")),
    }
}

/// How long each transient state may last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Making the disk.
    pub provisioning: Duration,
    /// From the request to the agent's answer.
    pub starting: Duration,
    /// An orderly shutdown, and the kill after its grace.
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

/// What the node is to be asked for next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing: wait for a report or a request.
    Wait,
    /// Make the disk.
    Provision,
    /// Boot.
    Start,
    /// Shut down.
    Stop,
    /// Remove every trace.
    Delete,
}

impl Lifecycle {
    /// A workspace that has just been asked for.
    pub fn created(now: Moment) -> Self {
        Self {
            status: Status::Provisioning,
            since: now,
            desired: Desired::Stopped,
            generation: 1,
            has_disk: false,
            boot: None,
            last_boot: None,
            agent_lost: false,
            failure: None,
            attempts: 0,
        }
    }

    /// What may be asked now.
    pub fn allowed(&self) -> Vec<Request> {
        let hopeless = self.failure.as_ref().is_some_and(|failure| !failure.retryable);
        self.status
            .allowed()
            .iter()
            .copied()
            .filter(|request| !(hopeless && *request == Request::Retry))
            .collect()
    }

    /// A user's request.
    pub fn request(&self, request: Request, now: Moment) -> Result<Self, IllegalMove> {
        let allowed = self.allowed();
        if !allowed.contains(&request) {
            return Err(IllegalMove { request, status: self.status, allowed });
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
            next.forget_boot();
        }
        next.enter(status, now);
        Ok(next)
    }

    /// The node has made the disk.
    pub fn disk_made(&self, now: Moment) -> Self {
        let mut next = self.clone();
        next.has_disk = true;
        if next.status == Status::Provisioning {
            next.attempts = 0;
            next.enter(Status::Provisioned, now);
        }
        next
    }

    /// The node has begun to boot it.
    pub fn boot_begun(&self, boot: &str) -> Self {
        let mut next = self.clone();
        if next.status == Status::Starting && next.boot.is_none() {
            next.boot = Some(boot.to_owned());
        }
        next
    }

    /// The node has refused or failed to do what the state needs.
    pub fn step_failed(&self, code: &str, message: &str, now: Moment) -> Self {
        if self.status.is_transient() { self.failed(code, message, now) } else { self.clone() }
    }

    /// The failure of a transient state that lasted too long, if it has. `not_before` is when this process began to
    /// look after it: a state is not blamed for time in which nobody worked on it.
    pub fn time_out(&self, now: Moment, not_before: Moment, timeouts: &Timeouts) -> Option<Self> {
        let limit = match self.status {
            Status::Provisioning => timeouts.provisioning,
            Status::Starting => timeouts.starting,
            Status::Stopping => timeouts.stopping,
            Status::Deleting => timeouts.deleting,
            Status::Provisioned | Status::Running | Status::Stopped | Status::Failed => return None,
        };
        if now.since(self.since.max(not_before)) < limit {
            return None;
        }
        let code = format!("timeout_{}", self.status);
        let message = format!("still {} after {} s", self.status, limit.as_secs());
        Some(self.failed(&code, &message, now))
    }

    /// What to ask the node for, given what it reported last of this workspace (if anything).
    pub fn next_step(&self, seen: Option<&Seen>) -> Step {
        let alive = matches!(seen, Some(Seen::Booting { .. } | Seen::Running { .. }));
        match self.status {
            Status::Provisioning => Step::Provision,
            Status::Starting if !self.has_disk => Step::Provision,
            Status::Starting if self.boot.is_none() => Step::Start,
            Status::Starting | Status::Running => Step::Wait,
            Status::Stopping => Step::Stop,
            Status::Deleting => Step::Delete,
            // Nothing runs that nobody wants.
            Status::Provisioned | Status::Stopped | Status::Failed if alive => Step::Stop,
            Status::Provisioned | Status::Stopped | Status::Failed => Step::Wait,
        }
    }

    fn forget_boot(&mut self) {
        if let Some(boot) = self.boot.take() {
            self.last_boot = Some(boot);
        }
        self.agent_lost = false;
    }

    /// Takes on a status; a status that it has already keeps its age, so that a guest which reboots for ever runs out of time.
    fn enter(&mut self, status: Status, now: Moment) {
        if self.status != status {
            self.since = now;
        }
        self.status = status;
        if status != Status::Failed {
            self.failure = None;
        }
        if status != Status::Running {
            self.agent_lost = false;
        }
    }

    /// A new generation, so that whatever is still under way at the node is refused or ended by the `Stop` that follows.
    fn failed(&self, code: &str, message: &str, now: Moment) -> Self {
        let mut next = self.clone();
        // Half deleted is no state to start from.
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
