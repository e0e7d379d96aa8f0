//! Targets: what a node is told to make of a workspace, and its next step towards that. Node and control read them by the same rules, so
//! neither has to be told what the other concludes.

use serde::{Deserialize, Serialize};

use super::end::EndCause;

/// Desired state of a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    /// A disk without a VM.
    Stopped,
    /// A running VM.
    Running,
    /// Nothing.
    Deleted,
}

/// Target of a node for one workspace. There is one state to a generation, but for one case: `Running` becomes `Stopped` when its VM has
/// ended for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Number of the requested change. A node refuses a lower one than it has.
    pub generation: u64,
    /// Desired state.
    pub state: Desired,
}

/// Facts about a workspace on its node, on which the next step depends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// The disk is complete.
    pub has_disk: bool,
    /// The VM that runs, or may run.
    pub vm: Option<VmFacts>,
    /// The target of this generation cannot be reached.
    pub given_up: Option<u64>,
}

/// VM that runs, or may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VmFacts {
    /// Generation of the target for which it was booted.
    pub generation: u64,
    /// It was told to shut down.
    pub stopping: bool,
}

/// Next step of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// None: the target is reached, or a step is in progress.
    Rest,
    /// Create the disk.
    CreateDisk,
    /// Boot a VM.
    Boot,
    /// Shut the VM down.
    Stop,
    /// Remove every trace.
    Delete,
}

impl Target {
    /// Returns the next step of a node that has this target.
    pub fn next_step(self, facts: Facts) -> Step {
        let given_up = facts.given_up == Some(self.generation);
        match (self.state, facts.vm) {
            (Desired::Deleted, _) => Step::Delete,
            (Desired::Running, Some(vm)) if vm.generation == self.generation => Step::Rest,
            (_, Some(vm)) if vm.stopping => Step::Rest,
            (_, Some(_)) => Step::Stop,
            (_, None) if given_up => Step::Rest,
            (_, None) if !facts.has_disk => Step::CreateDisk,
            (Desired::Running, None) => Step::Boot,
            (Desired::Stopped, None) => Step::Rest,
        }
    }

    /// Returns the target after the end of a VM that was booted for `generation`.
    #[must_use]
    pub fn after_end(self, generation: u64, cause: EndCause) -> Self {
        let is_over = self.state == Desired::Running && self.generation == generation && !cause.boots_again();
        if is_over { Self { state: Desired::Stopped, ..self } } else { self }
    }
}
