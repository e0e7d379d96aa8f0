//! Settings of the VMM drivers.

use std::path::PathBuf;

/// Settings of the VMM drivers.
#[derive(Debug, Clone)]
pub struct VmmConfig {
    /// QEMU for this machine's architecture.
    pub qemu: PathBuf,
}
