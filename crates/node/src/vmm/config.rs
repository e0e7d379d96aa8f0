//! Settings of the VMM drivers.

use std::path::PathBuf;

/// Settings of the VMM drivers.
#[derive(Debug, Clone)]
pub struct VmmConfig {
    /// QEMU for this machine's architecture.
    pub qemu: PathBuf,
    /// True if VMs may run in software emulation, which is no isolation boundary.
    pub allow_emulation: bool,
    /// Maximum disk traffic of one VM, reads and writes together, MB (10^6 bytes) per second.
    pub disk_mb_per_s: u32,
    /// Maximum number of disk operations of one VM per second.
    pub disk_iops: u32,
}
