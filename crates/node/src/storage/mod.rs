//! Disk space of the node: the volume, and the images and workspace disks on it.

mod ballast;
pub(crate) mod disks;
pub(crate) mod images;
pub(crate) mod owner;
pub(crate) mod sparse;
pub(crate) mod volume;
