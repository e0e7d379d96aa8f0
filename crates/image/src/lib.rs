//! Guest images: a recipe folder goes in, a versioned folder with everything a VM boots from comes out.
//!
//! An image is one folder that never changes once it is there:
//!
//! | file | is |
//! | --- | --- |
//! | `rootfs.ext4` | the root file system every workspace's disk is cloned from |
//! | `vmlinux` | the kernel as an ELF, for QEMU's and Firecracker's direct boot |
//! | `modules.cpio` | the first part of the initramfs: the modules that `/init` loads, in order |
//! | `image.json` | [`Image`]: version, kernel, package list |
//!
//! The three belong together: the disk holds the modules of exactly this kernel. Who boots them, and the
//! second part of the initramfs (the agent), are other crates' business.

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
mod recipe;
mod rootfs;
mod sources;

pub use cache::default_cache_dir;
pub use cpio::{Cpio, init_archive};
pub use error::Error;
pub use host::HOST_PACKAGES;
pub use image::{Image, Package};
