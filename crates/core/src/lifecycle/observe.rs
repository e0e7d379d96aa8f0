//! Effects of node reports on the state of a workspace.

use super::{Desired, Lifecycle};
use crate::status::Status;
use crate::system::SystemState;
use crate::time::Timestamp;

/// Node report about one workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Generation of the request that led to this state.
    pub generation: u64,
    /// Observed state.
    pub observed: ObservedState,
}

/// State of a workspace as observed by its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObservedState {
    /// A disk without a VM.
    Resting {
        /// The most recent boot and its end, if any.
        ended: Option<End>,
    },
    /// A VMM whose agent has not answered yet.
    Booting {
        /// Id of the boot.
        boot: String,
    },
    /// The agent has answered.
    Running {
        /// Id of the boot.
        boot: String,
        /// The agent has stopped answering.
        agent_lost: bool,
        /// State of its system.
        system: SystemState,
    },
    /// Shutting down.
    Stopping,
    /// Nothing.
    Absent,
}

impl ObservedState {
    /// Returns whether a VM runs that nobody has told to stop.
    pub fn is_alive(&self) -> bool {
        matches!(self, Self::Booting { .. } | Self::Running { .. })
    }
}

/// End of a boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Id of the boot.
    pub boot: String,
    /// Cause of the end.
    pub cause: EndCause,
    /// Details for people.
    pub detail: String,
}

/// Cause of the end of a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndCause {
    /// Stop or delete was requested.
    Requested,
    /// The guest powered itself off.
    Poweroff,
    /// The guest rebooted.
    Reboot,
    /// The guest halted.
    Halt,
    /// The guest's kernel panicked.
    KernelPanic,
    /// The VMM ended or was killed.
    VmmDied,
    /// The agent never answered.
    AgentNeverAnswered,
    /// The VM is gone and the cause was not observed.
    Unobserved,
    /// The host went down while the VM was running.
    HostWentDown,
    /// The VMM could not be started.
    StartFailed,
}

impl EndCause {
    /// Returns the failure code and default message of an abnormal end.
    fn failure(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::KernelPanic => Some(("kernel_panic", "the guest kernel panicked")),
            Self::VmmDied => Some(("vmm_died", "the VMM process ended unexpectedly")),
            Self::AgentNeverAnswered => {
                Some(("agent_never_answered", "the guest agent did not answer before the boot timeout"))
            }
            Self::Unobserved => Some(("ended_unobserved", "the VM is gone and the cause was not observed")),
            Self::StartFailed => Some(("start_failed", "the VM could not be started")),
            Self::Requested | Self::Poweroff | Self::Reboot | Self::Halt | Self::HostWentDown => None,
        }
    }
}

impl Lifecycle {
    /// Returns the state after a report, or `None` if it changes nothing (stale reports included).
    pub fn observe(&self, report: &Report, now: Timestamp) -> Option<Self> {
        let mut next = self.clone();
        // A database restored from a backup lags behind the node. Catch up, or the node would refuse the next
        // request as stale.
        next.generation = next.generation.max(report.generation);
        let next = match &report.observed {
            ObservedState::Booting { boot } if self.is_current_boot(report, boot) => {
                next.boot = Some(boot.clone());
                next
            }
            ObservedState::Running { boot, agent_lost, system } if self.is_current_boot(report, boot) => {
                next.boot = Some(boot.clone());
                next.attempts = 0;
                next.enter(Status::Running, now);
                next.agent_lost = *agent_lost;
                next.system = *system;
                next
            }
            ObservedState::Resting { ended } => next.on_resting(report.generation, ended.as_ref(), now),
            ObservedState::Absent => next.on_absent(now),
            ObservedState::Booting { .. } | ObservedState::Running { .. } | ObservedState::Stopping => next,
        };
        (next != *self).then_some(next)
    }

    /// Returns whether a live boot is the one this state waits for or has.
    fn is_current_boot(&self, report: &Report, boot: &str) -> bool {
        match self.status {
            Status::Starting => {
                report.generation >= self.generation && self.last_boot.as_deref() != Some(boot)
            }
            Status::Running => self.boot.as_deref() == Some(boot),
            _ => false,
        }
    }

    fn on_resting(mut self, generation: u64, ended: Option<&End>, now: Timestamp) -> Self {
        match self.status {
            // Also when the stop found the guest already gone: resting is the desired state.
            Status::Stopping if self.is_current_rest(generation, ended) => {
                self.enter(Status::Stopped, now);
                self
            }
            Status::Starting => match ended {
                Some(end) if self.is_current_end(generation, end) => self.on_end(end, now),
                _ => self,
            },
            Status::Running => match ended {
                Some(end) if self.boot.as_deref() == Some(end.boot.as_str()) => self.on_end(end, now),
                _ => self.failed_unobserved("the node has no VM for this workspace", now),
            },
            _ => self,
        }
    }

    /// Returns whether this resting state follows the stop in progress, rather than predating the boot to be
    /// stopped.
    fn is_current_rest(&self, generation: u64, ended: Option<&End>) -> bool {
        generation >= self.generation
            || ended.is_some_and(|end| match &self.boot {
                Some(boot) => *boot == end.boot,
                None => false,
            })
    }

    fn is_current_end(&self, generation: u64, end: &End) -> bool {
        match &self.boot {
            Some(boot) => *boot == end.boot,
            None => generation >= self.generation && self.last_boot.as_deref() != Some(end.boot.as_str()),
        }
    }

    fn on_end(mut self, end: &End, now: Timestamp) -> Self {
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
                self.clear_boot();
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

    fn on_absent(mut self, now: Timestamp) -> Self {
        match self.status {
            Status::Running => self.failed_unobserved("the node no longer knows this workspace", now),
            Status::Starting if self.boot.is_some() => {
                self.failed_unobserved("the node no longer knows this workspace", now)
            }
            Status::Stopping => {
                self.enter(Status::Stopped, now);
                self
            }
            _ => self,
        }
    }

    fn failed_unobserved(self, message: &str, now: Timestamp) -> Self {
        self.failed("ended_unobserved", message, now)
    }
}
