//! Observed state of a workspace: what its node last reported, whole.

use serde::{Deserialize, Serialize};

use super::end::End;
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
}
