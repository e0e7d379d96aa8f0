//! Ends of generations, and what they mean for users.

use serde::{Deserialize, Serialize};

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
