//! Where disks lie: a folder whose file system shares blocks between files (reflink), so that a clone takes no time and no room. Where
//! the state folder's file system cannot (ext4 is common), an XFS volume in a file, mounted by loop. That file is never sparse: every
//! workspace would get ENOSPC, even on blocks it already has, when the host's disk fills up.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::command::run;
use crate::error::Error;

const MIB: u64 = 1 << 20;
/// The volume's size when it is made, and the step it grows by, MiB.
const STEP_MB: u64 = 4096;
/// Share of the volume that XFS needs for itself: log, metadata, and what sharing blocks costs.
const OVERHEAD_PERCENT: u64 = 3;
const OVERHEAD_MB: u64 = 256;
/// Left free on the host's file system, MiB.
const HOST_KEEPS_MB: u64 = 1024;

/// The folder for images and disks.
#[derive(Debug)]
pub(crate) struct Volume {
    root: PathBuf,
    /// The file that holds it, when it is a volume of our own.
    file: Option<PathBuf>,
}

impl Volume {
    /// Opens the volume, making or mounting it when it is not there.
    pub(crate) fn open(state_dir: &Path, run_dir: &Path) -> Result<Self, Error> {
        let plain = state_dir.join("volume");
        fs::create_dir_all(&plain).map_err(Error::at("cannot be made", &plain))?;
        let file = state_dir.join("volume.xfs");
        if !file.exists() && shares_blocks(&plain).map_err(Error::at("cannot be written", &plain))? {
            return Ok(Self { root: plain, file: None });
        }
        let root = run_dir.join("volume");
        fs::create_dir_all(&root).map_err(Error::at("cannot be made", &root))?;
        if !file.exists() {
            make(&file)?;
        }
        if !is_mounted(&root)? {
            run("mount", &["-t", "xfs", "-o", "loop,noatime,nodiscard", &text(&file), &text(&root)])?;
        }
        Ok(Self { root, file: Some(file) })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// What can be set aside in all, now and by growing, MiB.
    pub(crate) fn total_mb(&self) -> Result<u64, Error> {
        let (size_mb, _) = space_mb(&self.root)?;
        Ok(match &self.file {
            None => size_mb,
            Some(file) => usable_mb(size_mb + host_room_mb(file)?),
        })
    }

    /// Sees to it that `reserved_mb` have room in all.
    pub(crate) fn ensure_room(&self, reserved_mb: u64) -> Result<(), Error> {
        let (size_mb, _) = space_mb(&self.root)?;
        let Some(file) = &self.file else {
            if reserved_mb <= size_mb {
                return Ok(());
            }
            let detail = format!("{reserved_mb} MiB would be set aside on a file system of {size_mb} MiB");
            return Err(Error::DiskFull { wanted_mb: reserved_mb - size_mb, detail });
        };
        if reserved_mb <= usable_mb(size_mb) {
            return Ok(());
        }
        let wanted_mb =
            (reserved_mb * 100 / (100 - OVERHEAD_PERCENT) + OVERHEAD_MB).next_multiple_of(STEP_MB);
        let missing_mb = wanted_mb - size_mb;
        let room_mb = host_room_mb(file)?;
        if missing_mb > room_mb {
            let detail =
                format!("the volume would have to grow by {missing_mb} MiB, the host has {room_mb} MiB");
            return Err(Error::DiskFull { wanted_mb: missing_mb, detail });
        }
        self.grow(file, wanted_mb)
    }

    fn grow(&self, path: &Path, size_mb: u64) -> Result<(), Error> {
        allocate(path, size_mb)?;
        let device = run("findmnt", &["-n", "-o", "SOURCE", "--mountpoint", &text(&self.root)])?;
        run("losetup", &["-c", &device])?;
        run("xfs_growfs", &[&text(&self.root)]).map(drop)
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// What of a volume of this size can hold disks, MiB.
fn usable_mb(size_mb: u64) -> u64 {
    (size_mb * (100 - OVERHEAD_PERCENT) / 100).saturating_sub(OVERHEAD_MB)
}

/// Size and free room of the file system at `path`, MiB.
fn space_mb(path: &Path) -> Result<(u64, u64), Error> {
    let space =
        rustix::fs::statvfs(path).map_err(|errno| Error::at("cannot be looked at", path)(errno.into()))?;
    Ok((space.f_blocks * space.f_frsize / MIB, space.f_bavail * space.f_frsize / MIB))
}

fn host_room_mb(file: &Path) -> Result<u64, Error> {
    let folder = file.parent().unwrap_or(Path::new("/"));
    Ok(space_mb(folder)?.1.saturating_sub(HOST_KEEPS_MB))
}

fn make(file: &Path) -> Result<(), Error> {
    let new = file.with_extension("new");
    let _ = fs::remove_file(&new);
    let room_mb = host_room_mb(file)?;
    if room_mb < STEP_MB {
        let detail = format!("the disks' volume begins with {STEP_MB} MiB, the host has {room_mb} MiB");
        return Err(Error::DiskFull { wanted_mb: STEP_MB, detail });
    }
    allocate(&new, STEP_MB)?;
    run("mkfs.xfs", &["-q", "-m", "reflink=1", &text(&new)])?;
    fs::rename(&new, file).map_err(Error::at("cannot be renamed", &new))
}

fn allocate(path: &Path, size_mb: u64) -> Result<(), Error> {
    let file = File::options().write(true).create(true).truncate(false).open(path);
    let file = file.map_err(Error::at("cannot be opened", path))?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size_mb * MIB)
        .map_err(|errno| Error::at("cannot be given its room", path)(errno.into()))
}

/// Whether files in `dir` can share blocks.
fn shares_blocks(dir: &Path) -> io::Result<bool> {
    let (one, two) = (dir.join(".reflink-1"), dir.join(".reflink-2"));
    fs::write(&one, [1; 4096])?;
    let cloned = rustix::fs::ioctl_ficlone(File::create(&two)?, File::open(&one)?);
    fs::remove_file(&one)?;
    fs::remove_file(&two)?;
    Ok(cloned.is_ok())
}

/// Whether something is mounted at exactly `path`.
pub(crate) fn is_mounted(path: &Path) -> Result<bool, Error> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(Error::system("/proc/self/mountinfo"))?;
    let path = path.to_string_lossy();
    Ok(mounts.lines().any(|line| line.split(' ').nth(4) == Some(&path)))
}
