//! Kinds of monitors, as records and jails name them.

use serde::{Deserialize, Serialize};

/// Monitor of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VmmKind {
    /// QEMU's `microvm`, which stays when its guest has ended, until it is killed.
    #[default]
    Qemu,
    /// Firecracker, which ends when its guest resets the machine.
    Firecracker,
}
