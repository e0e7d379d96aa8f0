//! Virtual machine monitors behind one interface. A driver says which command to run in the jail, and what of the VM the jail holds. Jail,
//! control group, network and recovery are the same for all drivers.

pub(crate) mod config;
#[cfg(test)]
mod escape_tests;
mod files;
pub(crate) mod firecracker;
mod kernel;
pub(crate) mod kind;
mod probe;
mod qemu;
pub(crate) mod select;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rigbox_core::vm_limits::DiskLimits;

use crate::error::Error;
use crate::memory::{MemoryKey, Opened};
use crate::sandbox::cgroup::Limits;
use crate::sandbox::jail::Launched;

/// Virtual machine to boot.
pub(crate) struct Machine {
    pub(crate) ram_mb: u32,
    pub(crate) vcpu_count: u32,
    pub(crate) hostname: String,
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    pub(crate) disk_size_bytes: u64,
    pub(crate) disk_limits: DiskLimits,
    /// Memory from which the guest goes on, if it does not boot.
    pub(crate) memory: Option<Memory>,
}

/// Memory of a machine that was saved, and the key of its image. The guest stays paused.
pub(crate) struct Memory {
    pub(crate) image: Opened,
    pub(crate) key: MemoryKey,
}

/// Placement of a VM on this host, whose resources have been created.
pub(crate) struct Place {
    pub(crate) disk: File,
    /// Tap device in the VM's network, which exists as long as this descriptor.
    pub(crate) tap: OwnedFd,
    /// Network namespace of the VM.
    pub(crate) netns: PathBuf,
    /// Folder of the VM's sockets, which only root can enter.
    pub(crate) vm_dir: PathBuf,
    /// Uid of the VMM, its control groups, and the folder that its jail is mounted on.
    pub(crate) uid: u32,
    pub(crate) cgroup_procs: Vec<PathBuf>,
    pub(crate) mount_point: PathBuf,
}

/// Driver of a VMM. The node kills VMM processes itself (`SIGKILL` to the first process of the pid namespace) and waits for them by
/// pidfd; guestio requests orderly shutdowns. So a driver only has to boot.
pub(crate) trait Vmm: Send + Sync {
    /// Returns the monitor's version and accelerator, in words that change with them.
    fn version(&self) -> String;
    /// Returns the resource limits of the VMM process, including the guest's share.
    fn limits(&self, machine: &Machine) -> Limits;
    /// Starts the machine in its jail.
    fn boot(&self, machine: Machine, place: Place) -> Result<Launched, Error>;
}
