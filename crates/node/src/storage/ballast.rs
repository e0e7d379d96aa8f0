//! Space of a loop-mounted volume that no disk needs, given back to the host. XFS does not shrink. So files in the volume, the ballast, take
//! that space, and where they lie the backing file gets holes: the volume uses these blocks for nothing else, and all others stay backed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

use super::MIB;
use crate::command::run;
use crate::durable;
use crate::error::Error;

/// Unit of the numbers in bytes.
const SECTOR_BYTES: u64 = 512;

/// Ballast of a volume: files of one size.
#[derive(Debug)]
pub(super) struct Ballast {
    folder: PathBuf,
    backing_file: PathBuf,
    step_mb: u64,
}

/// Part of the backing file, in bytes.
#[derive(Debug, PartialEq, Eq)]
struct Extent {
    offset: u64,
    length: u64,
}

impl Ballast {
    /// Opens the ballast of the volume at `root`, in files of `step_mb`.
    pub(super) fn open(root: &Path, backing_file: &Path, step_mb: u64) -> Result<Self, Error> {
        let folder = root.join("ballast");
        fs::create_dir_all(&folder).map_err(Error::at("create", &folder))?;
        Ok(Self { folder, backing_file: backing_file.to_owned(), step_mb })
    }

    /// Completes what a node that was killed has left: a file that is not whole, or one without its holes. Only while no other process changes
    /// the ballast.
    pub(super) fn recover(&self) -> Result<(), Error> {
        for file in self.files()? {
            if fs::metadata(&file).map_err(Error::at("stat", &file))?.len() < self.step_mb * MIB {
                fs::remove_file(&file).map_err(Error::at("remove", &file))?;
            } else {
                self.allocate_on_host(&file, false)?;
            }
        }
        Ok(())
    }

    /// Returns the size of the ballast, MiB.
    pub(super) fn size_mb(&self) -> Result<u64, Error> {
        Ok(self.files()?.len() as u64 * self.step_mb)
    }

    /// Gives a step of free space back to the host.
    pub(super) fn add(&self) -> Result<(), Error> {
        let used = self.files()?;
        let number = (0..).find(|number| !used.contains(&self.file(*number))).unwrap_or(u64::MAX);
        let path = self.file(number);
        let written = || -> std::io::Result<()> {
            let file = File::create(&path)?;
            // What was just deleted becomes free in the background.
            rustix::fs::syncfs(&file)?;
            fallocate(&file, FallocateFlags::empty(), 0, self.step_mb * MIB)?;
            // Before its blocks are gone, it must be certain that they stay its own.
            file.sync_all()?;
            durable::sync_dir(&self.folder)
        };
        if let Err(source) = written() {
            let _ = fs::remove_file(&path);
            return Err(Error::at("create", &path)(source));
        }
        self.allocate_on_host(&path, false)
    }

    /// Takes a step back from the host. Returns `false` if there is none.
    pub(super) fn remove(&self) -> Result<bool, Error> {
        let Some(path) = self.files()?.pop() else { return Ok(false) };
        self.allocate_on_host(&path, true)?;
        fs::remove_file(&path).map_err(Error::at("remove", &path))?;
        Ok(true)
    }

    fn file(&self, number: u64) -> PathBuf {
        self.folder.join(number.to_string())
    }

    fn files(&self) -> Result<Vec<PathBuf>, Error> {
        let list = fs::read_dir(&self.folder).map_err(Error::at("list", &self.folder))?;
        let paths = list.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>();
        paths.map_err(Error::at("list", &self.folder))
    }

    /// Allocates the host's blocks below a file of the ballast, or frees them.
    fn allocate_on_host(&self, file: &Path, allocate: bool) -> Result<(), Error> {
        let backing = File::options().write(true).open(&self.backing_file);
        let backing = backing.map_err(Error::at("open", &self.backing_file))?;
        let flags = if allocate {
            FallocateFlags::KEEP_SIZE
        } else {
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE
        };
        // As xfs_bmap(8) does, which is a shell script.
        let map = run("xfs_io", &["-r", "-c", "bmap", &file.display().to_string()])?;
        for Extent { offset, length } in extents(&map) {
            fallocate(&backing, flags, offset, length)
                .map_err(|errno| Error::at("allocate or free a part of", &self.backing_file)(errno.into()))?;
        }
        Ok(())
    }
}

/// Parses a map of `xfs_io` into where the parts of a file lie.
fn extents(text: &str) -> Vec<Extent> {
    let extent = |line: &str| {
        let (_, place) = line.trim().rsplit_once(": ")?;
        let (first, last) = place.split_once("..")?;
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        let sectors = last.checked_sub(first)?.checked_add(1)?;
        Some(Extent { offset: first * SECTOR_BYTES, length: sectors * SECTOR_BYTES })
    };
    text.lines().filter_map(extent).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_those_of_the_map() {
        let text = "/v/ballast/0:\n\t0: [0..7]: 192..199\n\t1: [8..15]: hole\n\t2: [16..1039]: 4096..5119\n";
        let expected = [
            Extent { offset: 192 * 512, length: 8 * 512 },
            Extent { offset: 4096 * 512, length: 1024 * 512 },
        ];
        assert_eq!(extents(text), expected);
        assert_eq!(extents("/v/1: no extents\n"), []);
    }
}
