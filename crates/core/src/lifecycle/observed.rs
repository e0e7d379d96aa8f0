//! Observed state of a workspace: what its node last reported, whole.

use serde::{Deserialize, Serialize};

use super::target::{Desired, Target};
use crate::system::SystemState;

/// State of a workspace as reported by its node. A report replaces the one before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Position among the node's reports.
    pub order: ReportOrder,
    /// Target that the node holds.
    pub target: Target,
    /// State of the disk.
    pub disk: Disk,
    /// The VM that runs, or may run.
    pub vm: Option<Vm>,
    /// How the most recent generation ended, if it has.
    pub end: Option<End>,
}

/// Position of a report. Positions of one session are in order; those of two are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportOrder {
    /// Random number of the node's process; 0 before there was a report.
    pub session: u64,
    /// Number of the report within the session.
    pub sequence: u64,
}

impl ReportOrder {
    /// Returns whether this report replaces `earlier`. The caller makes sure that its session is the node's current one.
    pub fn is_after(self, earlier: Self) -> bool {
        self.session != earlier.session || self.sequence > earlier.sequence
    }
}

/// State of a workspace's disk on its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disk {
    /// The node has nothing of the workspace.
    Absent,
    /// It is being created, or removed.
    Incomplete,
    /// It is complete.
    Complete,
}

/// VM that runs, or may run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vm {
    /// Id of the boot.
    pub boot: String,
    /// Generation of the target for which it was booted.
    pub generation: u64,
    /// Phase of its life.
    pub phase: VmPhase,
}

/// Phase of a VM's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VmPhase {
    /// The agent has not answered yet.
    Booting,
    /// The agent has answered.
    Running {
        /// The agent has stopped answering.
        agent_lost: bool,
        /// State of the guest's system.
        system: SystemState,
    },
    /// Shutting down.
    Stopping,
}

/// End of a generation: of its VM, or of the attempt to reach its target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Generation of the target.
    pub generation: u64,
    /// Id of the boot. Empty if there was none.
    pub boot: String,
    /// Cause of the end.
    pub cause: EndCause,
    /// Stable code of a refusal; empty otherwise.
    pub code: String,
    /// Details for people.
    pub detail: String,
}

/// Cause of an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
    /// The node refused, before it began.
    Refused,
}

impl EndCause {
    /// Returns whether the node boots the VM again by itself.
    pub fn boots_again(self) -> bool {
        matches!(self, Self::Reboot | Self::HostWentDown)
    }

    /// Returns the failure code and default message of an abnormal end.
    pub(super) fn failure(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::KernelPanic => Some(("kernel_panic", "the guest kernel panicked")),
            Self::VmmDied => Some(("vmm_died", "the VMM process ended unexpectedly")),
            Self::AgentNeverAnswered => {
                Some(("agent_never_answered", "the guest agent did not answer before the boot timeout"))
            }
            Self::Unobserved => Some(("ended_unobserved", "the VM is gone and the cause was not observed")),
            Self::StartFailed => Some(("start_failed", "the VM could not be started")),
            Self::Refused => Some(("refused", "the node refused")),
            Self::Requested | Self::Poweroff | Self::Reboot | Self::Halt | Self::HostWentDown => None,
        }
    }
}

impl Observed {
    /// Returns the state before the first report.
    pub fn nothing() -> Self {
        Self {
            order: ReportOrder { session: 0, sequence: 0 },
            target: Target { generation: 0, state: Desired::Stopped },
            disk: Disk::Absent,
            vm: None,
            end: None,
        }
    }

    /// Returns the state that the node has nothing of a workspace. `generation` is that of the deletion which it confirms, or 0.
    pub fn absent(order: ReportOrder, generation: u64) -> Self {
        Self { order, target: Target { generation, state: Desired::Deleted }, ..Self::nothing() }
    }

    /// Returns whether the node has nothing of the workspace.
    pub fn is_absent(&self) -> bool {
        self.disk == Disk::Absent
    }

    /// Returns whether a VM runs that was not told to stop.
    pub fn is_alive(&self) -> bool {
        self.vm.as_ref().is_some_and(|vm| vm.phase != VmPhase::Stopping)
    }
}
