//! Virtual machine monitors behind one set of verbs. A driver says what to run in the jail; the jail, the control group, the network
//! and the recovery are the same for all.

pub(crate) mod files;
pub(crate) mod probe;
pub(crate) mod qemu;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::cgroup::Limits;
use crate::error::Error;
use crate::jail::{Launched, Plan, borrow, launch};

/// The machine that is to be booted.
pub(crate) struct Machine {
    pub(crate) ram_mb: u32,
    pub(crate) vcpu_count: u32,
    pub(crate) hostname: String,
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    pub(crate) disk_size_bytes: u64,
}

/// Descriptors that the VMM is given; it opens nothing of the VM by a path.
pub(crate) struct Wires {
    pub(crate) disk: File,
    pub(crate) tap: OwnedFd,
    /// Listening socket behind which the VMM puts the agent's stream.
    pub(crate) agent: OwnedFd,
    /// Listening socket of the VMM's own protocol.
    pub(crate) monitor: OwnedFd,
}

/// Where the VMM runs.
pub(crate) struct Room {
    pub(crate) uid: u32,
    pub(crate) cgroup_procs: Vec<PathBuf>,
    pub(crate) mount_point: PathBuf,
}

/// A kind of VMM. Its processes are ended by the node (`SIGKILL` to the pid namespace's first process) and waited for by pidfd, which
/// needs no word here; orderly ends go by guestio.
pub(crate) trait Vmm: Send + Sync {
    /// What the VMM itself may use, beside what the guest may.
    fn limits(&self, machine: &Machine) -> Limits;
    /// Starts the machine in its jail.
    fn boot(&self, machine: &Machine, wires: Wires, room: Room) -> Result<Launched, Error>;
}

/// Common to the drivers: puts the plan together and launches it.
fn boot_in_jail(plan: &Plan, wires: Wires) -> Result<Launched, Error> {
    let fds = [wires.disk.into(), wires.tap, wires.agent, wires.monitor];
    launch(plan, &borrow(&fds))
}
