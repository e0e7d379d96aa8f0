//! Virtual machine monitors behind one interface. A driver says which command to run in the jail. Jail, control group, network and
//! recovery are the same for all drivers.

pub(crate) mod config;
mod qemu;
pub(crate) mod select;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rigbox_core::vm_limits::DiskLimits;

use crate::error::Error;
use crate::sandbox::cgroup::Limits;
use crate::sandbox::jail::{JailPlan, Launched, borrow, launch};

/// Virtual machine to boot.
pub(crate) struct Machine {
    pub(crate) ram_mb: u32,
    pub(crate) vcpu_count: u32,
    pub(crate) hostname: String,
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    pub(crate) disk_size_bytes: u64,
    pub(crate) disk_limits: DiskLimits,
}

/// Descriptors that are passed to the VMM, which opens nothing of the VM by path.
pub(crate) struct VmmFds {
    pub(crate) disk: File,
    pub(crate) tap: OwnedFd,
    /// Listening socket on which the VMM serves the agent's session.
    pub(crate) agent: OwnedFd,
    /// Listening socket on which the VMM serves the agent's second session, for commands and files.
    pub(crate) streams: OwnedFd,
    /// Listening socket for the VMM's own protocol.
    pub(crate) monitor: OwnedFd,
}

/// Placement of the VMM: its uid, control groups and jail.
pub(crate) struct JailSpec {
    pub(crate) uid: u32,
    pub(crate) cgroup_procs: Vec<PathBuf>,
    pub(crate) mount_point: PathBuf,
}

/// Driver of a VMM. The node kills VMM processes itself (`SIGKILL` to the first process of the pid namespace) and waits for them by
/// pidfd; guestio requests orderly shutdowns. So a driver only has to boot.
pub(crate) trait Vmm: Send + Sync {
    /// Returns the resource limits of the VMM process, including the guest's share.
    fn limits(&self, machine: &Machine) -> Limits;
    /// Starts the machine in its jail.
    fn boot(&self, machine: &Machine, fds: VmmFds, jail: JailSpec) -> Result<Launched, Error>;
}

/// Launches a VMM with its descriptors in the order that every driver expects.
fn launch_in_jail(plan: &JailPlan, fds: VmmFds) -> Result<Launched, Error> {
    let fds = [fds.disk.into(), fds.tap, fds.agent, fds.streams, fds.monitor];
    launch(plan, &borrow(&fds))
}
