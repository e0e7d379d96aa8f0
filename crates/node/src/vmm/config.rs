//! Settings of the VMM drivers.

use std::path::PathBuf;
use std::time::Duration;

use rigbox_core::vm_limits::DiskLimits;

/// Settings of the VMM drivers.
#[derive(Debug, Clone)]
pub struct VmmConfig {
    /// QEMU for this machine's architecture.
    pub qemu: PathBuf,
    /// Firecracker, which runs VMs wherever KVM works in it.
    pub firecracker: Option<PathBuf>,
    /// True if VMs may run in software emulation, which is no isolation boundary.
    pub allow_emulation: bool,
    /// Limit for the guest's kernel to start on KVM, when that is probed.
    pub kvm_probe_timeout: Duration,
    /// Limits of a VM's disk, where its start request has no lower ones.
    pub disk: DiskLimits,
}
