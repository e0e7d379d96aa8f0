//! Builder of guest images: turns a recipe folder into a versioned folder with everything that a VM boots from.
//!
//! An image is an immutable folder:
//!
//! | file | content |
//! | --- | --- |
//! | `rootfs.ext4` | root file system, from which the disk of every workspace is cloned |
//! | `vmlinux` | kernel as an ELF, for the direct boot of QEMU and Firecracker |
//! | `modules.cpio` | first part of the initramfs: the modules that `/init` loads, in order |
//! | `image.json` | [`Image`]: version, kernel and package list |
//!
//! They belong together: the disk contains the modules of exactly this kernel. Booting them, and the second part of the initramfs (the
//! agent), are left to other crates.

mod build;
mod cache;
mod command;
mod cpio;
mod disk;
mod error;
mod host;
mod image;
mod inputs;
mod kernel;
mod lz4;
mod modules;
mod npm;
mod pypi;
mod recipe;
mod rootfs;
mod sources;

pub use build::build;
pub use cache::{default_cache_dir, find_newest, newest_of_each};
pub use cpio::{Cpio, init_archive};
pub use error::Error;
pub use host::host_packages;
pub use image::{Image, Package, Registry};
