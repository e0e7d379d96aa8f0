//! What the node's reports change in a workspace's life.

use super::{Desired, Lifecycle};
use crate::status::Status;
use crate::time::Moment;

/// One report of the node about one workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The generation of the request that led here.
    pub generation: u64,
    /// What the node sees.
    pub seen: Seen,
}

/// What the node sees of a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// A disk and no VM.
    Resting {
        /// The boot that ended last, if there was one, and how.
        ended: Option<End>,
    },
    /// A VMM; the agent has not answered.
    Booting {
        /// Which boot.
        boot: String,
    },
    /// The agent has answered.
    Running {
        /// Which boot.
        boot: String,
        /// It does not answer any more.
        agent_lost: bool,
    },
    /// On the way down.
    Stopping,
    /// Nothing.
    Absent,
}

/// The end of a boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Which boot.
    pub boot: String,
    /// How it ended.
    pub cause: EndCause,
    /// For people.
    pub detail: String,
}

/// How a boot ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndCause {
    /// Stop or delete was asked for.
    Requested,
    /// The guest powered itself off.
    Poweroff,
    /// The guest rebooted.
    Reboot,
    /// The guest halted.
    Halt,
    /// The guest's kernel gave up.
    KernelPanic,
    /// The VMM ended or was killed.
    VmmDied,
    /// The agent's hello never came.
    AgentNeverAnswered,
    /// The VM is gone and nobody saw why.
    Unobserved,
    /// The host went down with the VM running.
    HostWentDown,
    /// The VMM could not be started.
    StartFailed,
}

impl EndCause {
    /// The failure code of an end that is one, with a text for when the node has none.
    fn failure(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::KernelPanic => Some(("kernel_panic", "the guest's kernel panicked")),
            Self::VmmDied => Some(("vmm_died", "the virtual machine's process ended unexpectedly")),
            Self::AgentNeverAnswered => {
                Some(("agent_never_answered", "the guest's agent did not answer within the boot time-out"))
            }
            Self::Unobserved => Some(("ended_unobserved", "the virtual machine is gone and nobody saw why")),
            Self::StartFailed => Some(("start_failed", "the virtual machine could not be started")),
            Self::Requested | Self::Poweroff | Self::Reboot | Self::Halt | Self::HostWentDown => None,
        }
    }
}

impl Lifecycle {
    /// The life after a report, or `None` when it changes nothing (old news included).
    pub fn observe(&self, report: &Report, now: Moment) -> Option<Self> {
        let mut next = self.clone();
        // A database restored from a backup lags behind the node: what it asks for next has to count.
        next.generation = next.generation.max(report.generation);
        let next = match &report.seen {
            Seen::Booting { boot } if self.is_mine(report, boot) => {
                next.boot = Some(boot.clone());
                next
            }
            Seen::Running { boot, agent_lost } if self.is_mine(report, boot) => {
                next.boot = Some(boot.clone());
                next.attempts = 0;
                next.enter(Status::Running, now);
                next.agent_lost = *agent_lost;
                next
            }
            Seen::Resting { ended } => next.after_rest(report.generation, ended.as_ref(), now),
            Seen::Absent => next.after_absence(now),
            Seen::Booting { .. } | Seen::Running { .. } | Seen::Stopping => next,
        };
        (next != *self).then_some(next)
    }

    /// Whether a living boot is the one that this life waits for or has.
    fn is_mine(&self, report: &Report, boot: &str) -> bool {
        match self.status {
            Status::Starting => {
                report.generation >= self.generation && self.last_boot.as_deref() != Some(boot)
            }
            Status::Running => self.boot.as_deref() == Some(boot),
            _ => false,
        }
    }

    fn after_rest(mut self, generation: u64, ended: Option<&End>, now: Moment) -> Self {
        match self.status {
            // Also when the stop found the guest already gone: resting is what was wanted.
            Status::Stopping if self.owns_rest(generation, ended) => {
                self.enter(Status::Stopped, now);
                self
            }
            Status::Starting => match ended {
                Some(end) if self.owns_end(generation, end) => self.after_end(end, now),
                _ => self,
            },
            Status::Running => match ended {
                Some(end) if self.boot.as_deref() == Some(end.boot.as_str()) => self.after_end(end, now),
                _ => self.failed_unseen("the node has no virtual machine of it", now),
            },
            _ => self,
        }
    }

    /// Whether this rest comes after the stop that is under way, and not from before the boot that it is to end.
    fn owns_rest(&self, generation: u64, ended: Option<&End>) -> bool {
        generation >= self.generation
            || ended.is_some_and(|end| match &self.boot {
                Some(boot) => *boot == end.boot,
                None => false,
            })
    }

    fn owns_end(&self, generation: u64, end: &End) -> bool {
        match &self.boot {
            Some(boot) => *boot == end.boot,
            None => generation >= self.generation && self.last_boot.as_deref() != Some(end.boot.as_str()),
        }
    }

    fn after_end(mut self, end: &End, now: Moment) -> Self {
        if let Some((code, text)) = end.cause.failure() {
            let message = match end.detail.as_str() {
                "" => text.to_owned(),
                detail => format!("{text}: {detail}"),
            };
            let mut next = self.failed(code, &message, now);
            next.boot = Some(end.boot.clone());
            return next;
        }
        self.boot = Some(end.boot.clone());
        match end.cause {
            EndCause::Reboot | EndCause::HostWentDown => {
                self.forget_boot();
                self.generation += 1;
                self.enter(Status::Starting, now);
            }
            _ => {
                self.desired = Desired::Stopped;
                self.enter(Status::Stopped, now);
            }
        }
        self
    }

    fn after_absence(mut self, now: Moment) -> Self {
        match self.status {
            Status::Running => self.failed_unseen("the node does not know this workspace any more", now),
            Status::Starting if self.boot.is_some() => {
                self.failed_unseen("the node does not know this workspace any more", now)
            }
            Status::Stopping => {
                self.enter(Status::Stopped, now);
                self
            }
            _ => self,
        }
    }

    fn failed_unseen(self, message: &str, now: Moment) -> Self {
        self.failed("ended_unobserved", message, now)
    }
}
