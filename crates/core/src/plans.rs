//! Plans: what a user may have at once.

use std::str::FromStr;

/// A user's plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// The installation's administrator: no ceiling but the machine's capacity.
    Owner,
    /// To try it out.
    Free,
    /// To work with it.
    Pro,
}

/// A text that is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a plan: expected owner, free or pro")]
pub struct BadPlan(String);

/// Ceilings for one user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Workspaces.
    pub max_vms: u32,
    /// MiB of memory of one workspace.
    pub max_ram_per_vm_mb: u32,
    /// MiB of memory of all workspaces.
    pub max_ram_total_mb: u32,
    /// MiB of disk of one workspace.
    pub max_disk_per_vm_mb: u32,
    /// MiB of disk of all workspaces.
    pub max_disk_total_mb: u32,
    /// Processors of one workspace.
    pub max_vcpu_per_vm: u32,
    /// Processors of all running workspaces.
    pub max_running_vcpus: u32,
}

/// What the machine has: nobody's ceiling lies above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Processors.
    pub vcpus: u32,
    /// MiB of memory.
    pub ram_mb: u32,
    /// MiB of disk.
    pub disk_total_mb: u32,
}

/// The largest number that the API's 32-bit fields hold on every client.
const UNLIMITED: u32 = i32::MAX as u32;

impl Plan {
    /// The plan's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Free => "free",
            Self::Pro => "pro",
        }
    }

    /// The plan's ceilings on this machine.
    pub fn limits(self, machine: Machine) -> Limits {
        let (vms, ram, vcpu, disk) = match self {
            Self::Owner => {
                return Limits {
                    max_vms: UNLIMITED,
                    max_ram_per_vm_mb: machine.ram_mb,
                    max_ram_total_mb: UNLIMITED,
                    max_disk_per_vm_mb: machine.disk_total_mb,
                    max_disk_total_mb: machine.disk_total_mb,
                    max_vcpu_per_vm: machine.vcpus,
                    max_running_vcpus: UNLIMITED,
                };
            }
            Self::Free => (2, 1_024, 1, 4_096),
            Self::Pro => (10, 4_096, 4, 10_240),
        };
        Limits {
            max_vms: vms,
            max_ram_per_vm_mb: ram.min(machine.ram_mb),
            max_ram_total_mb: vms * ram,
            max_disk_per_vm_mb: disk.min(machine.disk_total_mb),
            max_disk_total_mb: vms * disk,
            max_vcpu_per_vm: vcpu.min(machine.vcpus),
            max_running_vcpus: vms * vcpu,
        }
    }
}

impl FromStr for Plan {
    type Err = BadPlan;

    fn from_str(text: &str) -> Result<Self, BadPlan> {
        [Self::Owner, Self::Free, Self::Pro]
            .into_iter()
            .find(|plan| plan.as_str() == text)
            .ok_or_else(|| BadPlan(text.chars().take(64).collect()))
    }
}
