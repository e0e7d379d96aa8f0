//! Volume for images and disks: a folder on a file system that shares blocks between files (reflink), so that a clone takes no time and
//! no space. If the state folder's file system does not (ext4 is common), the volume is an XFS file system in a loop-mounted file. That
//! file is never sparse, because once the host's disk is full, every workspace would get ENOSPC even on blocks that it already has.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::MIB;
use crate::command::run;
use crate::error::Error;
use crate::storage::ballast::Ballast;

/// Initial size of the volume, and the step by which it grows, MiB.
const GROWTH_STEP_MB: u64 = 4096;
/// Share of the volume that XFS needs for its log, its metadata and block sharing.
const OVERHEAD_PERCENT: u64 = 3;
const OVERHEAD_MB: u64 = 256;
/// Space that is left free on the host's file system, MiB.
const HOST_RESERVE_MB: u64 = 1024;

/// Folder for images and disks.
#[derive(Debug)]
pub(crate) struct Volume {
    root: PathBuf,
    /// Present if the volume is loop-mounted.
    backing: Option<Backing>,
}

/// File below a loop-mounted volume.
#[derive(Debug)]
struct Backing {
    file: PathBuf,
    ballast: Ballast,
}

impl Volume {
    /// Opens the volume. Creates and mounts it if necessary.
    pub(crate) fn open(state_dir: &Path, run_dir: &Path) -> Result<Self, Error> {
        let plain = state_dir.join("volume");
        fs::create_dir_all(&plain).map_err(Error::at("create", &plain))?;
        let file = state_dir.join("volume.xfs");
        if !file.exists() && supports_reflink(&plain).map_err(Error::at("write to", &plain))? {
            return Ok(Self { root: plain, backing: None });
        }
        let root = run_dir.join("volume");
        fs::create_dir_all(&root).map_err(Error::at("create", &root))?;
        if !file.exists() {
            create(&file)?;
        }
        if !is_mounted(&root)? {
            mount(&file, &root)?;
        }
        let ballast = Ballast::open(&root, &file, GROWTH_STEP_MB)?;
        Ok(Self { root, backing: Some(Backing { file, ballast }) })
    }

    /// Completes changes that an earlier node has left half done.
    pub(crate) fn recover(&self) -> Result<(), Error> {
        self.backing.as_ref().map_or(Ok(()), |backing| backing.ballast.recover())
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns whether `state_dir` has a volume. Opening one creates it.
    pub(crate) fn exists(state_dir: &Path) -> bool {
        state_dir.join("volume.xfs").exists() || state_dir.join("volume/disks").exists()
    }

    /// Returns whether the volume of `state_dir` would have to be mounted first.
    pub(crate) fn is_unmounted(state_dir: &Path, run_dir: &Path) -> Result<bool, Error> {
        Ok(state_dir.join("volume.xfs").exists() && !is_mounted(&run_dir.join("volume"))?)
    }

    /// Unmounts the volume, if it is a mounted one.
    pub(crate) fn unmount(self) -> Result<(), Error> {
        match self.backing {
            Some(_) => run("umount", &[&path_text(&self.root)]).map(drop),
            None => Ok(()),
        }
    }

    /// Returns the free space of the volume, MiB.
    pub(crate) fn free_mb(&self) -> Result<u64, Error> {
        Ok(space_mb(&self.root)?.1)
    }

    /// Returns the space that can be reserved in total, including possible growth, MiB. `written_mb` of it is in use by images and disks.
    pub(crate) fn total_mb(&self, written_mb: u64) -> Result<u64, Error> {
        let (size_mb, free_mb) = space_mb(&self.root)?;
        Ok(match &self.backing {
            // Others use this file system, too.
            None => written_mb + free_mb.saturating_sub(HOST_RESERVE_MB),
            Some(Backing { file, ballast }) => usable_mb(size_mb - ballast.size_mb()? + host_free_mb(file)?),
        })
    }

    /// Ensures that the volume has space for `reserved_mb` in total, of which images and disks use `written_mb` already. Grows it if
    /// necessary.
    pub(crate) fn ensure_capacity(&self, reserved_mb: u64, written_mb: u64) -> Result<(), Error> {
        let Some(Backing { file, ballast }) = &self.backing else {
            let total_mb = self.total_mb(written_mb)?;
            if reserved_mb <= total_mb {
                return Ok(());
            }
            let detail = format!(
                "{reserved_mb} MiB would be reserved, and the file system has {total_mb} MiB beside the files of others"
            );
            return Err(Error::DiskFull { wanted_mb: reserved_mb - total_mb, detail });
        };
        let (size_mb, _) = space_mb(&self.root)?;
        let ballast_mb = ballast.size_mb()?;
        if reserved_mb <= usable_mb(size_mb.saturating_sub(ballast_mb)) {
            return Ok(());
        }
        let wanted_mb = size_for_mb(reserved_mb);
        let missing_mb = (wanted_mb + ballast_mb).saturating_sub(file_mb(file)?);
        let free_mb = host_free_mb(file)?;
        if missing_mb > free_mb {
            let detail =
                format!("the volume would have to grow by {missing_mb} MiB, and the host has {free_mb} MiB");
            return Err(Error::DiskFull { wanted_mb: missing_mb, detail });
        }
        for _ in 0..missing_mb.div_ceil(GROWTH_STEP_MB) {
            if !ballast.remove()? {
                return self.grow(file, wanted_mb);
            }
        }
        Ok(())
    }

    /// Keeps what the volume has from being given back, also by another process, until the file that is returned is closed.
    pub(crate) fn keep_capacity(&self) -> Result<File, Error> {
        let root = File::open(&self.root).map_err(Error::at("open", &self.root))?;
        root.lock_shared().map_err(Error::at("lock", &self.root))?;
        Ok(root)
    }

    /// Returns whether somebody keeps the capacity: a backup, whose clones share the disks' blocks.
    pub(crate) fn is_kept(&self) -> Result<bool, Error> {
        let root = File::open(&self.root).map_err(Error::at("open", &self.root))?;
        match root.try_lock() {
            Err(TryLockError::WouldBlock) => return Ok(true),
            Err(TryLockError::Error(error)) => return Err(Error::at("lock", &self.root)(error)),
            // Now, and not with the last copy of the descriptor, which a process that is being started may have.
            Ok(()) => root.unlock(),
        }
        .map_err(Error::at("unlock", &self.root))?;
        Ok(false)
    }

    /// Gives what is not needed for `reserved_mb` back to the host, unless somebody keeps it.
    pub(crate) fn give_back(&self, reserved_mb: u64) -> Result<(), Error> {
        let Some(Backing { file, ballast }) = &self.backing else { return Ok(()) };
        let root = File::open(&self.root).map_err(Error::at("open", &self.root))?;
        if root.try_lock().is_err() {
            return Ok(());
        }
        let surplus_mb = file_mb(file)?.saturating_sub(ballast.size_mb()? + size_for_mb(reserved_mb));
        (0..surplus_mb / GROWTH_STEP_MB).try_for_each(|_| ballast.add())
    }

    fn grow(&self, path: &Path, size_mb: u64) -> Result<(), Error> {
        allocate(path, size_mb)?;
        let device = run("findmnt", &["-n", "-o", "SOURCE", "--mountpoint", &path_text(&self.root)])?;
        run("losetup", &["-c", &device])?;
        run("xfs_growfs", &[&path_text(&self.root)]).map(drop)
    }
}

/// Mounts the file system in `file`, with project quotas if the kernel has them. They can be turned on at a mount only.
pub(super) fn mount(file: &Path, root: &Path) -> Result<(), Error> {
    let mount = |quotas: &str| {
        let options = format!("loop,noatime,nodiscard{quotas}");
        run("mount", &["-t", "xfs", "-o", &options, &path_text(file), &path_text(root)]).map(drop)
    };
    mount(",prjquota").or_else(|_| mount(""))
}

fn path_text(path: &Path) -> String {
    path.display().to_string()
}

/// Returns the part of a volume of this size that can hold disks, MiB.
fn usable_mb(size_mb: u64) -> u64 {
    (size_mb * (100 - OVERHEAD_PERCENT) / 100).saturating_sub(OVERHEAD_MB)
}

/// Returns the size of a volume that can hold disks of `reserved_mb`, MiB.
fn size_for_mb(reserved_mb: u64) -> u64 {
    (reserved_mb * 100 / (100 - OVERHEAD_PERCENT) + OVERHEAD_MB).next_multiple_of(GROWTH_STEP_MB)
}

fn file_mb(file: &Path) -> Result<u64, Error> {
    Ok(fs::metadata(file).map_err(Error::at("stat", file))?.len() / MIB)
}

/// Returns the size and the free space of the file system at `path`, MiB.
fn space_mb(path: &Path) -> Result<(u64, u64), Error> {
    let space = rustix::fs::statvfs(path)
        .map_err(|errno| Error::at("stat the file system of", path)(errno.into()))?;
    Ok((space.f_blocks * space.f_frsize / MIB, space.f_bavail * space.f_frsize / MIB))
}

/// Returns the host's free space into which the backing file may grow, MiB.
fn host_free_mb(file: &Path) -> Result<u64, Error> {
    let folder = file.parent().unwrap_or(Path::new("/"));
    Ok(space_mb(folder)?.1.saturating_sub(HOST_RESERVE_MB))
}

/// Creates a formatted backing file.
fn create(file: &Path) -> Result<(), Error> {
    let new = file.with_extension("new");
    let _ = fs::remove_file(&new);
    let free_mb = host_free_mb(file)?;
    if free_mb < GROWTH_STEP_MB {
        let detail = format!("a new volume takes {GROWTH_STEP_MB} MiB, and the host has {free_mb} MiB");
        return Err(Error::DiskFull { wanted_mb: GROWTH_STEP_MB, detail });
    }
    allocate(&new, GROWTH_STEP_MB)?;
    run("mkfs.xfs", &["-q", "-m", "reflink=1", &path_text(&new)])?;
    fs::rename(&new, file).map_err(Error::at("rename", &new))
}

fn allocate(path: &Path, size_mb: u64) -> Result<(), Error> {
    let file = File::options().write(true).create(true).truncate(false).open(path);
    let file = file.map_err(Error::at("open", path))?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size_mb * MIB)
        .map_err(|errno| Error::at("allocate", path)(errno.into()))
}

/// Returns whether files in `dir` can share blocks.
fn supports_reflink(dir: &Path) -> io::Result<bool> {
    let (one, two) = (dir.join(".reflink-1"), dir.join(".reflink-2"));
    fs::write(&one, [1; 4096])?;
    let cloned = rustix::fs::ioctl_ficlone(File::create(&two)?, File::open(&one)?);
    fs::remove_file(&one)?;
    fs::remove_file(&two)?;
    Ok(cloned.is_ok())
}

/// Returns whether `path` is a mount point.
pub(crate) fn is_mounted(path: &Path) -> Result<bool, Error> {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo")
        .map_err(Error::system("read the list of mounts"))?;
    let path = path.to_string_lossy();
    Ok(mounts.lines().any(|line| line.split(' ').nth(4) == Some(&path)))
}

#[cfg(test)]
mod tests;
