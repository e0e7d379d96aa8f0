//! Disks of workspaces: cloned from an image, resized, removed. The host never reads their content.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rigbox_core::ids::WorkspaceId;
use rustix::fs::{Mode, OFlags};

use super::MIB;
use crate::durable::sync_dir;
use crate::error::Error;
use crate::storage::quotas::{Quotas, Unavailable, limit_bytes};
use crate::storage::volume::Volume;

/// Space beside an image's root file system: kernel, modules and initramfs, MiB.
const IMAGE_OVERHEAD_MB: u64 = 128;

/// Added to the name of a disk that is not complete yet. Such a file is no workspace's disk.
const PARTIAL_EXTENSION: &str = "new";

/// All disks of this node, and the space reserved for them.
#[derive(Debug)]
pub(crate) struct Disks {
    volume: Volume,
    dir: PathBuf,
    /// Share of a disk's size that is reserved for it.
    reserve: f64,
    reserved: Mutex<Reserved>,
    quotas: Result<Quotas, Unavailable>,
}

/// Reserved space, MiB.
#[derive(Debug, Default)]
struct Reserved {
    images_mb: u64,
    /// Size of all images as they are on the volume.
    written_images_mb: u64,
    largest_image_mb: u64,
    disks_mb: HashMap<WorkspaceId, u64>,
    /// Memory images.
    memory_mb: HashMap<WorkspaceId, u64>,
}

impl Reserved {
    fn total_mb(&self) -> u64 {
        self.images_mb + self.disks_mb.values().chain(self.memory_mb.values()).sum::<u64>()
    }
}

impl Disks {
    pub(crate) fn open(volume: Volume, reserve: f64) -> Result<Self, Error> {
        let dir = volume.root().join("disks");
        fs::create_dir_all(&dir).map_err(Error::at("create", &dir))?;
        let quotas = Quotas::open(&dir);
        Ok(Self { volume, dir, reserve, reserved: Mutex::default(), quotas })
    }

    /// Returns the project quotas of the disks, or why there are none.
    pub(crate) fn quotas(&self) -> Result<&Quotas, &Unavailable> {
        self.quotas.as_ref()
    }

    pub(crate) fn volume(&self) -> &Volume {
        &self.volume
    }

    pub(crate) fn into_volume(self) -> Volume {
        self.volume
    }

    /// Returns the total and the reserved space, MiB.
    pub(crate) fn space_mb(&self) -> Result<(u64, u64), Error> {
        let reserved = self.reserved();
        Ok((self.volume.total_mb(self.written_mb(&reserved))?, reserved.total_mb()))
    }

    /// Returns the space that images and disks use at least, MiB. A disk's file counts the blocks that it shares with its image, too.
    fn written_mb(&self, reserved: &Reserved) -> u64 {
        let of_disk = |(id, reserved_mb): (&WorkspaceId, &u64)| {
            let allocated_mb = fs::metadata(self.path(id)).map_or(0, |meta| meta.blocks() * 512 / MIB);
            allocated_mb.saturating_sub(reserved.largest_image_mb).min(*reserved_mb)
        };
        reserved.written_images_mb + reserved.disks_mb.iter().map(of_disk).sum::<u64>()
    }

    fn reserved(&self) -> std::sync::MutexGuard<'_, Reserved> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves the space of an existing disk.
    pub(crate) fn adopt(&self, workspace: &WorkspaceId, size_mb: u32) {
        self.reserved().disks_mb.insert(workspace.clone(), self.reserved_mb(size_mb));
    }

    /// Reserves the space of a disk that is about to be written, in place of what is reserved for it.
    pub(crate) fn reserve(&self, workspace: &WorkspaceId, size_mb: u32) -> Result<(), Error> {
        // Locked while the volume grows, so that two disks do not claim the same space.
        let mut reserved = self.reserved();
        reserved.disks_mb.remove(workspace);
        let size_mb = self.reserved_mb(size_mb);
        let written_mb = self.written_mb(&reserved);
        self.volume.ensure_capacity(reserved.total_mb() + size_mb, written_mb)?;
        reserved.disks_mb.insert(workspace.clone(), size_mb);
        Ok(())
    }

    /// Reserves the space of a memory image that exists.
    pub(crate) fn adopt_memory(&self, workspace: &WorkspaceId, size_mb: u32) {
        self.reserved().memory_mb.insert(workspace.clone(), size_mb.into());
    }

    /// Reserves the space of a memory image that is about to be written.
    pub(crate) fn reserve_memory(&self, workspace: &WorkspaceId, size_mb: u32) -> Result<(), Error> {
        let mut reserved = self.reserved();
        let written_mb = self.written_mb(&reserved);
        self.volume.ensure_capacity(reserved.total_mb() + u64::from(size_mb), written_mb)?;
        reserved.memory_mb.insert(workspace.clone(), size_mb.into());
        Ok(())
    }

    /// Ends the reservation of a memory image that was removed.
    pub(crate) fn release_memory(&self, workspace: &WorkspaceId) {
        self.reserved().memory_mb.remove(workspace);
    }

    /// Reserves the space of an image that is on the volume, of this size.
    pub(crate) fn reserve_image(&self, size_mb: u64) -> Result<(), Error> {
        let mut reserved = self.reserved();
        reserved.written_images_mb += size_mb;
        reserved.largest_image_mb = reserved.largest_image_mb.max(size_mb);
        let total_mb = reserved.total_mb() + size_mb + IMAGE_OVERHEAD_MB;
        self.volume.ensure_capacity(total_mb, self.written_mb(&reserved))?;
        reserved.images_mb += size_mb + IMAGE_OVERHEAD_MB;
        Ok(())
    }

    /// Returns the space to reserve for a disk of this size.
    fn reserved_mb(&self, size_mb: u32) -> u64 {
        // Both are small and not negative.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let reserved_mb = (f64::from(size_mb) * self.reserve).ceil() as u64;
        reserved_mb
    }

    pub(crate) fn path(&self, workspace: &WorkspaceId) -> PathBuf {
        self.dir.join(file_name(workspace))
    }

    /// Creates a disk of `size_mb` as a clone of `image`. An existing disk is replaced, because nothing has used it yet. It gets its name
    /// once it is complete: without a journal, the name alone says that.
    pub(crate) fn create(&self, workspace: &WorkspaceId, image: &Path, size_mb: u32) -> Result<(), Error> {
        self.reserve(workspace, size_mb)?;
        let path = self.path(workspace);
        let partial = path.with_added_extension(PARTIAL_EXTENSION);
        let _ = fs::remove_file(&path);
        let _ = fs::remove_file(&partial);
        let cloned = clone_disk(image, &partial, u64::from(size_mb) * MIB);
        let named = cloned.and_then(|()| fs::rename(&partial, &path)).and_then(|()| sync_dir(&self.dir));
        named.map_err(|source| {
            self.reserved().disks_mb.remove(workspace);
            let _ = fs::remove_file(&partial);
            let _ = fs::remove_file(&path);
            Error::at("create disk", &path)(source)
        })
    }

    /// Opens a disk of `size_mb` for its VMM. Where there are project quotas, it then has its limit, in the project of this number.
    pub(crate) fn open_disk(
        &self,
        workspace: &WorkspaceId,
        project: u32,
        size_mb: u32,
    ) -> Result<File, Error> {
        let path = self.path(workspace);
        let disk =
            File::options().read(true).write(true).open(&path).map_err(Error::at("open disk", &path))?;
        if let Ok(quotas) = &self.quotas {
            let size_mb = u64::from(size_mb);
            quotas
                .limit(&disk, project, limit_bytes(size_mb, self.shared_mb(size_mb)?))
                .map_err(Error::at("limit disk", &path))?;
        }
        Ok(disk)
    }

    /// Returns how much a disk of this size may share with other files: with its image, or with the clone of a backup that runs, all of it.
    fn shared_mb(&self, size_mb: u64) -> Result<u64, Error> {
        // Locked, so that no other disk of this node is what keeps the volume.
        let reserved = self.reserved();
        Ok(if self.volume.is_kept()? { size_mb } else { reserved.largest_image_mb })
    }

    /// Returns a crash-consistent clone of a disk, which its VM may go on writing to, or `None` if there is no such disk. The clone has no
    /// name, so the kernel removes it with the last descriptor, however this process ends.
    pub(crate) fn clone_for_backup(&self, workspace: &WorkspaceId) -> Result<Option<File>, Error> {
        let path = self.path(workspace);
        let disk = match File::open(&path) {
            Ok(disk) => disk,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::at("open disk", &path)(error)),
        };
        // Whatever the VM overwrites while the clone exists takes space once more.
        let metadata = disk.metadata().map_err(Error::at("stat", &path))?;
        let allocated_mb = (metadata.blocks() * 512).div_ceil(MIB);
        let no_space = |detail: String| {
            let message = format!("the clone of the disk of {workspace} does not fit: {detail}");
            Error::Refused("backup_space", message)
        };
        let (reserved_mb, written_mb) = {
            let reserved = self.reserved();
            (reserved.total_mb(), self.written_mb(&reserved))
        };
        self.volume
            .ensure_capacity(reserved_mb + allocated_mb, written_mb)
            .map_err(|error| no_space(error.to_string()))?;
        let free_mb = self.volume.free_mb()?;
        if free_mb < allocated_mb {
            return Err(no_space(format!(
                "it may take {allocated_mb} MiB, and {free_mb} MiB are free. Free some space on the volume"
            )));
        }
        if let Ok(quotas) = &self.quotas {
            let size_mb = metadata.len().div_ceil(MIB);
            // Until the next launch: what the VM overwrites stays reserved for some time after the clone is gone.
            quotas
                .change_limit(&disk, limit_bytes(size_mb, size_mb))
                .map_err(Error::at("limit disk", &path))?;
        }
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let clone = rustix::fs::open(&self.dir, flags, Mode::RUSR | Mode::WUSR).and_then(|clone| {
            rustix::fs::ioctl_ficlone(&clone, &disk)?;
            Ok(File::from(clone))
        });
        Ok(Some(clone.map_err(|errno| Error::at("clone disk", &path)(errno.into()))?))
    }

    pub(crate) fn remove(&self, workspace: &WorkspaceId) -> Result<(), Error> {
        let path = self.path(workspace);
        let _ = fs::remove_file(path.with_added_extension(PARTIAL_EXTENSION));
        if let (Ok(quotas), Ok(disk)) = (&self.quotas, File::open(&path)) {
            quotas.release(&disk).map_err(Error::at("release the quota of disk", &path))?;
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(Error::at("remove disk", &path)(error));
            }
            _ => {}
        }
        // Locked while the volume gives space back, so that no disk claims it meanwhile.
        let mut reserved = self.reserved();
        reserved.disks_mb.remove(workspace);
        if let Err(error) = self.volume.give_back(reserved.total_mb()) {
            tracing::warn!(%error, "failed to give free space of the volume back to the host");
        }
        Ok(())
    }

    /// Returns all disks with their sizes in MiB.
    pub(crate) fn list(&self) -> Result<Vec<(WorkspaceId, u32)>, Error> {
        let mut disks = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(Error::at("list", &self.dir))? {
            let path = entry.map_err(Error::at("list", &self.dir))?.path();
            match identify(&path)? {
                Some(disk) => disks.push(disk),
                None => tracing::warn!(path = %path.display(), "ignoring a file that is no workspace's disk"),
            }
        }
        Ok(disks)
    }
}

/// Returns the name of a workspace's disk in a folder of disks.
pub(crate) fn file_name(workspace: &WorkspaceId) -> String {
    format!("{workspace}.ext4")
}

/// Returns whose disk a file is, and its size in MiB. `None` for a file that is no workspace's disk.
pub(crate) fn identify(path: &Path) -> Result<Option<(WorkspaceId, u32)>, Error> {
    let size = fs::metadata(path).map_err(Error::at("stat", path))?.len();
    let id = path.file_stem().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
    Ok(id.zip(u32::try_from(size / MIB).ok()))
}

/// Creates a file of `size_bytes` at `path` that shares the blocks of `image`. It is durable on return.
///
/// # Errors
/// Fails if `path` exists, or if the file system is full or does not share blocks.
pub fn clone_disk(image: &Path, path: &Path, size_bytes: u64) -> io::Result<()> {
    let disk = File::options().read(true).write(true).create_new(true).open(path)?;
    rustix::fs::fchmod(&disk, rustix::fs::Mode::from_raw_mode(0o600))?;
    rustix::fs::ioctl_ficlone(&disk, File::open(image)?)?;
    disk.set_len(size_bytes)?;
    disk.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testbed::{in_own_namespace, mount_xfs};

    /// Without the journal, an interrupted creation would be taken for somebody's disk.
    #[test]
    fn disk_has_its_name_once_it_is_complete() {
        if !in_own_namespace("storage::disks::tests::disk_has_its_name_once_it_is_complete") {
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let root = mount_xfs(scratch.path(), 2_048);
        let (state, run) = (root.join("state"), root.join("run"));
        fs::create_dir_all(&state).unwrap();
        let disks = Disks::open(Volume::open(&state, &run).unwrap(), 1.0).unwrap();
        let (image, id) = (root.join("image"), WorkspaceId::from_random([1; 5]));
        File::create(&image).unwrap().set_len(MIB).unwrap();
        let partial = disks.path(&id).with_added_extension(PARTIAL_EXTENSION);
        fs::write(&partial, "part").unwrap();
        assert_eq!(disks.list().unwrap(), []);
        disks.create(&id, &image, 64).unwrap();
        assert_eq!(disks.list().unwrap(), [(id.clone(), 64)]);
        assert!(!partial.exists());
        // One that fails leaves nothing.
        assert!(disks.create(&id, &root.join("no image"), 64).is_err());
        assert_eq!(disks.list().unwrap(), []);
        assert!(!partial.exists());
    }
}
