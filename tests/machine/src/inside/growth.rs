//! Growth of a file by a process that can do what a VMM could that was taken over: it has the file's descriptor, the VMM's uid and its
//! bound on the sizes of files, and no filter of system calls.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, setrlimit};
use rustix::fs::{FallocateFlags, fallocate};
use serde::{Deserialize, Serialize};

use super::installation::run;

/// Step of the growth, MiB.
pub(super) const STEP_MB: u64 = 64;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// File to grow.
    path: PathBuf,
    /// User to become before that.
    uid: u32,
    /// Blocks to allocate beyond the file's end, MiB.
    wanted_mb: u64,
}

/// Blocks that a file has got beyond its end.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Growth {
    pub(super) grown_mb: u64,
    /// Number of the error that ended it.
    pub(super) errno: Option<i32>,
}

/// Grows a file, in a process that is this user's from then on, and prints what came of it.
pub(crate) fn print(arguments: &Arguments) -> Result<()> {
    let file = File::options().write(true).open(&arguments.path).context("open the file")?;
    let size = file.metadata()?.len();
    setrlimit(Resource::RLIMIT_FSIZE, size, size)?;
    rigbox_sys::privileges::drop_to(arguments.uid)?;
    let mut growth = Growth { grown_mb: 0, errno: None };
    while growth.grown_mb < arguments.wanted_mb && growth.errno.is_none() {
        let end = size + (growth.grown_mb << 20);
        match fallocate(&file, FallocateFlags::KEEP_SIZE, end, STEP_MB << 20) {
            Ok(()) => growth.grown_mb += STEP_MB,
            Err(errno) => growth.errno = Some(errno.raw_os_error()),
        }
    }
    println!("{}", serde_json::to_string(&growth)?);
    Ok(())
}

/// Runs such a process, and gives back what it got.
pub(super) fn grow(path: &Path, uid: u32, wanted_mb: u64) -> Result<Growth> {
    let file = File::options().write(true).open(path)?;
    let program = std::env::current_exe()?;
    let arguments =
        ["grow", &path.display().to_string(), &uid.to_string(), &wanted_mb.to_string()].map(str::to_owned);
    let printed = run(&program.display().to_string(), &arguments.each_ref().map(String::as_str));
    let size = file.metadata()?.len();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, size, (wanted_mb + STEP_MB) << 20)?;
    let printed = printed?;
    serde_json::from_str(&printed).with_context(|| printed.clone())
}
