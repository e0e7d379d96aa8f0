//! Record of a workspace: what its node is to make of it, and what the node has created for that. The journal keeps it on disk.

use rigbox_core::ids::WorkspaceId;
use rigbox_core::lifecycle::{Desired, EndCause, Facts, Target, VmFacts};
use rigbox_core::vm_limits::VmLimits;
use rigbox_proto::guestio::RunState;
use rigbox_proto::node::{self, SetTargetRequest};
use serde::{Deserialize, Serialize};

use crate::cause;
use crate::error::Error;
use crate::limits;
use crate::memory::{MemoryImage, MemoryKey};
use crate::net::policy::Policy;
use crate::vmm::kind::VmmKind;

mod earlier;

/// Maximum length of an end's detail, which goes to control.
const MAX_DETAIL_BYTES: usize = 1024;

/// State of one workspace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Id of the workspace.
    pub workspace: String,
    /// Index of its uid among the node's VM uids.
    pub slot: u32,
    /// Target that the node holds for it.
    pub target: Target,
    /// Details that came with the target. `None` if control has not sent it to this version of the node yet: nothing is created or booted.
    pub spec: Option<Spec>,
    /// Version of the image that the disk was cloned from.
    pub image_version: String,
    /// Size of the disk, MiB.
    pub disk_size_mb: u32,
    /// State of the disk.
    pub phase: Phase,
    /// VM that runs, or may run.
    pub boot: Option<Boot>,
    /// How the most recent generation ended, if it has.
    pub last_end: Option<BootEnd>,
    /// Network policy, in force now or from the next boot on.
    #[serde(default)]
    pub network: Policy,
    /// Revision of the network policy.
    #[serde(default)]
    pub network_revision: u64,
    /// Memory image, from which the next boot may go on.
    #[serde(default)]
    pub memory: Option<MemoryImage>,
    /// Why the last boot did not go on from a memory image, or the last stop made none.
    #[serde(default)]
    pub memory_lost: String,
}

/// Details of a target, valid from the next boot on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Image name.
    pub image: String,
    /// Size of the disk, if it has to be created, MiB.
    pub disk_size_mb: u32,
    /// Size of the memory, MiB.
    pub ram_mb: u32,
    /// Number of virtual CPUs.
    pub vcpu_count: u32,
    /// Host name of the guest.
    pub name: String,
    /// Instance metadata.
    pub metadata_json: String,
    /// Owner, who takes turns with others in the queue of boots.
    pub owner: String,
    /// Limits of the disk.
    pub disk_limits: VmLimits,
    /// Time until a guest that has to stop is killed, ms.
    pub grace_ms: u32,
}

/// State of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The disk may be incomplete.
    Provisioning,
    /// The disk is complete.
    Provisioned,
}

/// VM that runs, or may run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Boot {
    /// Id of the boot, a UUID.
    pub boot_id: String,
    /// Generation of the target for which it was booted.
    pub generation: u64,
    /// Boot id of the host. If the host has another one by now, this VM is gone.
    pub host_boot_id: String,
    /// `None` until the VMM has been spawned.
    pub process: Option<ProcessId>,
    /// Monitor that runs it. The version before had QEMU alone.
    #[serde(default)]
    pub vmm: VmmKind,
    /// Instance metadata.
    #[serde(rename = "about_json")]
    pub metadata_json: String,
    /// The agent has sent its hello in this boot.
    pub ready: bool,
    /// It was told to shut down.
    pub stopping: bool,
    /// The guest stands still, or is to.
    #[serde(default)]
    pub paused: bool,
    /// Number of times that the guest was taken out of time.
    #[serde(default)]
    pub epoch: u32,
    /// The agent has not acknowledged the last epoch: link and dial are closed.
    #[serde(default)]
    pub is_closed: bool,
    /// Memory image that is being loaded or made.
    #[serde(default)]
    pub memory: BootMemory,
}

/// Memory image of a VM that runs, or may run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BootMemory {
    /// None.
    #[default]
    None,
    /// The VMM is being loaded from it, and its guest stands still.
    Loading,
    /// It is being written.
    Saving,
    /// It is complete: the guest never runs again in this boot.
    Saved(MemoryImage),
}

impl Boot {
    /// Returns whether the guest was put back from a memory image and its agent has not answered yet.
    pub(crate) fn is_restoring(&self) -> bool {
        self.epoch > 0 && !self.ready
    }

    /// Returns the state that the VMM is to be in.
    pub(crate) fn run_state(&self) -> RunState {
        match self.memory {
            BootMemory::None if !self.paused => RunState::Running,
            BootMemory::Saving => RunState::Saved,
            BootMemory::None | BootMemory::Loading | BootMemory::Saved(_) => RunState::Paused,
        }
    }
}

/// Identity of a process that survives the reuse of its pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Process id.
    pub pid: i32,
    /// Start time in clock ticks after the host's boot (field 22 of proc_pid_stat(5)).
    pub start_time: u64,
}

/// End of a generation: of its VM, or of the attempt to reach its target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootEnd {
    /// Generation of the target.
    pub generation: u64,
    /// Id of the boot. Empty if there was none.
    pub boot_id: String,
    /// Cause of the end, a number of the wire's.
    #[serde(with = "cause")]
    pub cause: EndCause,
    /// Stable code of a refusal; empty otherwise.
    pub code: String,
    /// Details for people.
    pub detail: String,
}

impl BootEnd {
    /// Returns the end of a boot.
    pub(crate) fn of(boot: &Boot, cause: EndCause, detail: &str) -> Self {
        let (generation, boot_id) = (boot.generation, boot.boot_id.clone());
        Self { generation, boot_id, cause, code: String::new(), detail: shortened(detail) }
    }

    /// Returns the end of a generation that the node refuses.
    pub(crate) fn refusal(generation: u64, code: &str, detail: &str) -> Self {
        let (boot_id, code) = (String::new(), code.to_owned());
        Self { generation, boot_id, cause: EndCause::Refused, code, detail: shortened(detail) }
    }
}

/// Bounds a text for people.
pub(crate) fn shortened(text: &str) -> String {
    let mut text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.truncate(text.floor_char_boundary(MAX_DETAIL_BYTES));
    text
}

impl Record {
    /// Creates the record of a workspace without a disk.
    pub fn new(workspace: &WorkspaceId, slot: u32) -> Self {
        Self {
            workspace: workspace.to_string(),
            slot,
            target: Target { generation: 0, state: Desired::Stopped },
            spec: None,
            image_version: String::new(),
            disk_size_mb: 0,
            phase: Phase::Provisioning,
            boot: None,
            last_end: None,
            network: Policy::default(),
            network_revision: 0,
            memory: None,
            memory_lost: String::new(),
        }
    }

    /// Parses a record, also one of the version before, and the id of its workspace.
    pub(crate) fn parse(text: &str) -> std::io::Result<(WorkspaceId, Self)> {
        let record: Self = serde_json::from_value(earlier::converted(serde_json::from_str(text)?))?;
        let id = record.workspace.parse().map_err(std::io::Error::other)?;
        Ok((id, record))
    }

    /// Returns the details of the target.
    pub(crate) fn known_spec(&self) -> Result<&Spec, Error> {
        let unknown = || Error::Launch("control has not sent the size of the VM".to_owned());
        self.spec.as_ref().ok_or_else(unknown)
    }

    /// Returns what the next step depends on.
    pub(crate) fn facts(&self) -> Facts {
        let vm = |boot: &Boot| VmFacts {
            generation: boot.generation,
            stopping: boot.stopping || boot.memory == BootMemory::Saving,
        };
        let refused = self.last_end.as_ref().filter(|end| end.cause == EndCause::Refused);
        Facts {
            has_disk: self.phase == Phase::Provisioned,
            vm: self.boot.as_ref().map(vm),
            given_up: refused.map(|end| end.generation),
        }
    }

    /// Takes over a target with what it carries, unless the one that is recorded is as late. The size of a disk that exists stays.
    pub(crate) fn set_target(&mut self, target: Target, spec: Spec) {
        if target.generation <= self.target.generation {
            return;
        }
        if self.phase == Phase::Provisioning {
            self.disk_size_mb = spec.disk_size_mb;
        }
        (self.target, self.spec) = (target, Some(spec));
    }

    /// Replaces the network policy, unless the one that is recorded is later.
    pub(crate) fn set_network(&mut self, policy: Policy, revision: u64) {
        if revision >= self.network_revision {
            (self.network, self.network_revision) = (policy, revision);
        }
    }

    /// Records an end, and what it makes of the target.
    pub(crate) fn end(&mut self, end: BootEnd) {
        self.target = self.target.after_end(end.generation, end.cause);
        self.last_end = Some(end);
    }
}

/// Valid request to set a target.
#[derive(Debug)]
pub(crate) struct TargetRequest {
    pub(crate) target: Target,
    pub(crate) spec: Spec,
    /// Network policy and its revision.
    pub(crate) network: Option<(Policy, u64)>,
    /// Key of a memory image that a stop is to make, or that a boot is to go on from.
    pub(crate) memory_key: Option<MemoryKey>,
}

impl TryFrom<SetTargetRequest> for TargetRequest {
    type Error = Error;

    fn try_from(request: SetTargetRequest) -> Result<Self, Error> {
        let state = match request.desired() {
            node::Desired::Stopped => Desired::Stopped,
            node::Desired::Running => Desired::Running,
            node::Desired::Deleted => Desired::Deleted,
            node::Desired::Unspecified => {
                return Err(Error::Refused("bad_request", "the target has no desired state".to_owned()));
            }
        };
        let policy = request.network.map(Policy::try_from).transpose()?;
        Ok(Self {
            target: Target { generation: request.generation, state },
            network: policy.map(|policy| (policy, request.network_revision)),
            memory_key: request.memory_key.map(MemoryKey::try_from).transpose()?,
            spec: Spec {
                image: request.image,
                disk_size_mb: request.disk_size_mb,
                ram_mb: request.ram_mb,
                vcpu_count: request.vcpu_count,
                name: request.name,
                metadata_json: request.metadata_json,
                owner: request.owner,
                disk_limits: limits::of_disk(request.disk)?,
                grace_ms: request.grace_ms,
            },
        })
    }
}

#[cfg(test)]
mod tests;
