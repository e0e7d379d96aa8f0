//! Creation of the ext4 image file from the finished tree.

use std::path::Path;
use std::process::Command;

use crate::command;
use crate::error::Error;

/// Size up to which a mounted disk may grow: 1 TiB in blocks of 4 KiB. The space for its block group descriptors is reserved now and costs
/// less than 1 MB per copy.
const MAX_SIZE_BLOCKS: u64 = (1 << 40) / 4096;

/// Writes `tree` as a sparse ext4 image of `size_mb` to `path`.
pub(crate) fn format(tree: &Path, path: &Path, size_mb: u64) -> Result<(), Error> {
    let file = std::fs::File::create_new(path).map_err(Error::file("create", path))?;
    file.set_len(size_mb << 20).map_err(Error::file("set the size of", path))?;
    drop(file);
    let mut mkfs = Command::new("mkfs.ext4");
    // Everything is initialized now. Otherwise the kernel of each clone would write zeroes during its first minutes, and undo the
    // sharing of blocks between clones.
    mkfs.arg("-E").arg(format!("resize={MAX_SIZE_BLOCKS},lazy_itable_init=0,lazy_journal_init=0"));
    // As large as by default on a disk of 3 GB: twice the size would take as much more of each workspace's space.
    mkfs.args(["-J", "size=64"]);
    // A reserve of 1 % for root is enough to repair a full disk.
    mkfs.args(["-q", "-F", "-b", "4096", "-m", "1", "-L", "rigbox-root", "-d"]).arg(tree).arg(path);
    mkfs.env("PATH", command::PATH);
    command::output(&mut mkfs, "creating the root file system").map(drop)
}
