//! Settings of the VMM drivers.

use std::path::PathBuf;

use rigbox_core::vm_limits::DiskLimits;

/// Settings of the VMM drivers.
#[derive(Debug, Clone)]
pub struct VmmConfig {
    /// QEMU for this machine's architecture.
    pub qemu: PathBuf,
    /// True if VMs may run in software emulation, which is no isolation boundary.
    pub allow_emulation: bool,
    /// Limits of a VM's disk, where its start request has no lower ones.
    pub disk: DiskLimits,
}
