//! The workspaces' disks: cloned from an image, grown to their size, removed. The host never looks into one.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rigbox_core::ids::WorkspaceId;

use crate::error::Error;
use crate::volume::Volume;

const MIB: u64 = 1 << 20;

/// All disks of this node.
#[derive(Debug)]
pub(crate) struct Disks {
    volume: Volume,
    dir: PathBuf,
    /// Share of a disk's size that is set aside.
    reserve: f64,
    /// MiB set aside: for images, and for each disk.
    reserved: Mutex<Reserved>,
}

#[derive(Debug, Default)]
struct Reserved {
    images_mb: u64,
    disks_mb: HashMap<WorkspaceId, u64>,
}

impl Reserved {
    fn total_mb(&self) -> u64 {
        self.images_mb + self.disks_mb.values().sum::<u64>()
    }
}

impl Disks {
    pub(crate) fn open(volume: Volume, reserve: f64) -> Result<Self, Error> {
        let dir = volume.root().join("disks");
        fs::create_dir_all(&dir).map_err(Error::at("cannot be made", &dir))?;
        Ok(Self { volume, dir, reserve, reserved: Mutex::default() })
    }

    pub(crate) fn volume(&self) -> &Volume {
        &self.volume
    }

    /// MiB: in all, and set aside.
    pub(crate) fn space_mb(&self) -> Result<(u64, u64), Error> {
        Ok((self.volume.total_mb()?, self.reserved().total_mb()))
    }

    fn reserved(&self) -> std::sync::MutexGuard<'_, Reserved> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a disk or an image that is there already.
    pub(crate) fn adopt(&self, workspace: &WorkspaceId, size_mb: u32) {
        self.reserved().disks_mb.insert(workspace.clone(), self.share(size_mb));
    }

    /// Sets room for an image aside.
    pub(crate) fn reserve_image(&self, size_mb: u64) -> Result<(), Error> {
        let mut reserved = self.reserved();
        self.volume.ensure_room(reserved.total_mb() + size_mb)?;
        reserved.images_mb += size_mb;
        Ok(())
    }

    fn share(&self, size_mb: u32) -> u64 {
        // Both are small and not negative.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let share = (f64::from(size_mb) * self.reserve).ceil() as u64;
        share
    }

    pub(crate) fn path(&self, workspace: &WorkspaceId) -> PathBuf {
        self.dir.join(format!("{workspace}.ext4"))
    }

    /// Makes the disk as a clone of `image`, `size_mb` large. One that is there already is made anew: it may be half there.
    pub(crate) fn create(&self, workspace: &WorkspaceId, image: &Path, size_mb: u32) -> Result<(), Error> {
        {
            // Held while the volume grows, so that two do not count on the same room.
            let mut reserved = self.reserved();
            reserved.disks_mb.remove(workspace);
            let share = self.share(size_mb);
            self.volume.ensure_room(reserved.total_mb() + share)?;
            reserved.disks_mb.insert(workspace.clone(), share);
        }
        let path = self.path(workspace);
        let _ = fs::remove_file(&path);
        clone_disk(image, &path, u64::from(size_mb) * MIB).map_err(|source| {
            self.reserved().disks_mb.remove(workspace);
            let _ = fs::remove_file(&path);
            Error::at("the disk cannot be made", &path)(source)
        })
    }

    pub(crate) fn open_disk(&self, workspace: &WorkspaceId) -> Result<File, Error> {
        let path = self.path(workspace);
        File::options()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(Error::at("the disk cannot be opened", &path))
    }

    pub(crate) fn remove(&self, workspace: &WorkspaceId) -> Result<(), Error> {
        let path = self.path(workspace);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(Error::at("the disk cannot be removed", &path)(error));
            }
            _ => {}
        }
        self.reserved().disks_mb.remove(workspace);
        Ok(())
    }

    /// Removes disks that are not of `workspaces`.
    pub(crate) fn retain(&self, workspaces: &dyn Fn(&WorkspaceId) -> bool) -> Result<(), Error> {
        for entry in fs::read_dir(&self.dir).map_err(Error::at("cannot be listed", &self.dir))? {
            let path = entry.map_err(Error::at("cannot be listed", &self.dir))?.path();
            let id = path.file_stem().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
            if !id.as_ref().is_some_and(workspaces) {
                tracing::warn!(disk = %path.display(), "removing a disk that nobody owns");
                fs::remove_file(&path).map_err(Error::at("the disk cannot be removed", &path))?;
            }
        }
        Ok(())
    }
}

/// Makes a new file at `path` that shares the blocks of `image` and is `size_bytes` large, on the disk before this returns.
///
/// # Errors
/// There is a file at `path`, or the file system does not share blocks, or it is full.
pub fn clone_disk(image: &Path, path: &Path, size_bytes: u64) -> io::Result<()> {
    let disk = File::options().read(true).write(true).create_new(true).open(path)?;
    rustix::fs::fchmod(&disk, rustix::fs::Mode::from_raw_mode(0o600))?;
    rustix::fs::ioctl_ficlone(&disk, File::open(image)?)?;
    disk.set_len(size_bytes)?;
    disk.sync_all()
}
