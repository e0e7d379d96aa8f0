//! Project quotas of the disks: a limit on all blocks of a disk's file, those that `fallocate` adds beyond its end included, which
//! `RLIMIT_FSIZE` lets pass on XFS. So a VMM that was taken over cannot fill the volume.
//!
//! A disk's project is numbered as the uid of its VMM. Both come from the slot in the workspace's record: no two workspaces have the same,
//! and no two installations on one machine. A record can be lost, and slots are then assigned anew, while files keep the projects that they
//! had. So each launch puts the disk into its project again, and takes other files out of it: they would use up what is the disk's.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rigbox_sys::project_quota;

use super::MIB;

/// Share of a disk's size that the map of its blocks may take: if each block of 4 KiB lies elsewhere, 16 bytes for each, in blocks that are
/// at least half full.
const MAP_PERCENT: u64 = 1;
/// Blocks that the file system reserves for a moment while it changes the map, and the map of a small disk, MiB.
const ROOM_MB: u64 = 16;

/// Reason why disks have no project quotas.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unavailable {
    #[error(
        "their file system is not mounted with `prjquota`, or is none of XFS with project quotas in the kernel"
    )]
    NotEnforced,
    #[error("their folder belongs to project {0} of the host's administrator")]
    Taken(u32),
    #[error("the kernel refuses: {0}")]
    Failed(#[from] io::Error),
}

/// Project quotas of the file system with the disks.
#[derive(Debug)]
pub(crate) struct Quotas {
    path: PathBuf,
    folder: File,
    /// Held while files change their projects.
    changing: Mutex<()>,
}

impl Quotas {
    /// Opens the quotas of a folder with disks, if its file system enforces them.
    pub(crate) fn open(path: &Path) -> Result<Self, Unavailable> {
        let folder = File::open(path)?;
        if !project_quota::is_enforced(&folder)? {
            return Err(Unavailable::NotEnforced);
        }
        // Whoever limits this folder as a whole counts what is in it.
        match project_quota::project(&folder)? {
            0 => Ok(Self { path: path.to_owned(), folder, changing: Mutex::default() }),
            project => Err(Unavailable::Taken(project)),
        }
    }

    /// Puts a disk, alone, into this project, with a limit.
    pub(crate) fn limit(&self, disk: &File, project: u32, bytes: u64) -> io::Result<()> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        project_quota::set_limit(&self.folder, project, Some(bytes))?;
        let former = project_quota::project(disk)?;
        if former != project {
            project_quota::set_project(disk, project)?;
            self.drop_unused(former)?;
        }
        let used_bytes = project_quota::usage(&self.folder, project)?.used_bytes;
        if used_bytes > disk.metadata()?.blocks() * 512 {
            self.release_others(disk, project)?;
        }
        Ok(())
    }

    /// Replaces the limit of a disk that has one.
    pub(crate) fn change_limit(&self, disk: &File, bytes: u64) -> io::Result<()> {
        match project_quota::project(disk)? {
            0 => Ok(()),
            project => project_quota::set_limit(&self.folder, project, Some(bytes)),
        }
    }

    /// Takes a disk out of its project, whose limit goes with its last file.
    pub(crate) fn release(&self, disk: &File) -> io::Result<()> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let project = project_quota::project(disk)?;
        project_quota::set_project(disk, 0)?;
        self.drop_unused(project)
    }

    /// Removes the limit of a project without blocks.
    fn drop_unused(&self, project: u32) -> io::Result<()> {
        if project == 0 || project_quota::usage(&self.folder, project)?.used_bytes > 0 {
            return Ok(());
        }
        project_quota::set_limit(&self.folder, project, None)
    }

    /// Takes all files but `disk` out of a project.
    fn release_others(&self, disk: &File, project: u32) -> io::Result<()> {
        let own = disk.metadata()?.ino();
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            let file = match File::open(&path) {
                // A disk that was removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened?,
            };
            if file.metadata()?.ino() != own && project_quota::project(&file)? == project {
                let path = path.display();
                tracing::warn!(%path, project, "taking a file out of the project of another disk");
                project_quota::set_project(&file, 0)?;
            }
        }
        Ok(())
    }
}

/// Returns the limit of a disk of `size_mb` that shares up to `shared_mb` with an image or a copy: those blocks count while they are shared,
/// and what replaces them counts beside them until it has been written. The file system reserves it for whole extents, not for what the
/// guest writes.
pub(crate) fn limit_bytes(size_mb: u64, shared_mb: u64) -> u64 {
    (size_mb + shared_mb.min(size_mb) + (size_mb * MAP_PERCENT).div_ceil(100) + ROOM_MB) * MIB
}

#[cfg(test)]
mod tests;
