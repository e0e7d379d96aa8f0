//! Mounts of single programs.

use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

/// Mounts a program read-only over an existing file.
pub(crate) fn bind_program(from: &Path, to: &Path) -> Result<()> {
    let none = None::<&str>;
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some(from), to, none, MsFlags::MS_BIND, none)?;
    mount(Some(from), to, none, MsFlags::MS_BIND | read_only, none)
        .with_context(|| format!("mount {} on {}", from.display(), to.display()))
}
