//! Turns the finished tree into an ext4 image file.

use std::path::Path;
use std::process::Command;

use crate::command;
use crate::error::Error;

/// The size up to which a workspace's disk may grow while mounted: 1 TiB in blocks of 4 KiB. Room for the
/// descriptors of so many block groups is set aside now; it costs under 1 MB per copy.
const GROW_TO_BLOCKS: u64 = (1 << 40) / 4096;

/// Writes `tree` as a sparse ext4 image of `size_mb` to `path`.
pub(crate) fn format(tree: &Path, path: &Path, size_mb: u64) -> Result<(), Error> {
    let file = std::fs::File::create_new(path).map_err(Error::file("create", path))?;
    file.set_len(size_mb << 20).map_err(Error::file("set the size of", path))?;
    drop(file);
    let mut mkfs = Command::new("mkfs.ext4");
    // Everything is initialised now: else each clone's kernel would spend its first minutes writing zeroes and
    // so undo the sharing of blocks between clones.
    mkfs.arg("-E").arg(format!("resize={GROW_TO_BLOCKS},lazy_itable_init=0,lazy_journal_init=0"));
    // One user's disk needs little in reserve for root: 1 % is enough to repair a full one.
    mkfs.args(["-q", "-F", "-b", "4096", "-m", "1", "-L", "rigbox-root", "-d"]).arg(tree).arg(path);
    mkfs.env("PATH", command::PATH);
    command::output(&mut mkfs, "making the root file system").map(drop)
}
