//! Disk space of the node: the volume, and the images and workspace disks on it.

mod ballast;
pub(crate) mod disks;
pub(crate) mod images;
pub(crate) mod owner;
pub(crate) mod quotas;
pub(crate) mod sparse;
#[cfg(test)]
pub(crate) mod testbed;
pub(crate) mod volume;

/// Bytes of a mebibyte.
const MIB: u64 = 1 << 20;
