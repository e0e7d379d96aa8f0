//! Copies of files that keep their holes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use rustix::fs::SeekFrom as Extent;

/// Copies `from` into the empty file `to`. The copy is durable on return.
pub(crate) fn copy(mut from: &File, mut to: &File) -> io::Result<()> {
    let length = from.metadata()?.len();
    to.set_len(length)?;
    let mut offset = 0;
    while offset < length {
        let start = match rustix::fs::seek(from, Extent::Data(offset)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let end = rustix::fs::seek(from, Extent::Hole(start))?;
        from.seek(SeekFrom::Start(start))?;
        to.seek(SeekFrom::Start(start))?;
        io::copy(&mut from.take(end - start), &mut to)?;
        offset = end;
    }
    to.sync_all()
}

/// Makes the empty file `to` share the blocks of `from`, or a copy of it where the file systems cannot.
pub(crate) fn clone_or_copy(from: &File, to: &File) -> io::Result<()> {
    match rustix::fs::ioctl_ficlone(to, from) {
        Ok(()) => to.sync_all(),
        Err(_) => copy(from, to),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileExt, MetadataExt};
    use std::path::Path;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// Checks a copy within `folder`: equal content, and no more blocks than the data takes.
    fn check(folder: &Path) {
        let path = |name: &str| folder.join(name);
        let from = File::options().read(true).write(true).create_new(true).open(path("from")).unwrap();
        from.set_len(64 * MIB).unwrap();
        for (at, byte) in [(0, 1), (10 * MIB + 4096, 2), (63 * MIB, 3)] {
            from.write_all_at(&[byte; 8192], at).unwrap();
        }
        for copied in [copy, clone_or_copy] {
            let to = File::options().read(true).write(true).create(true).truncate(true).open(path("to"));
            copied(&from, &to.unwrap()).unwrap();
            assert!(fs::read(path("from")).unwrap() == fs::read(path("to")).unwrap());
            let blocks = fs::metadata(path("to")).unwrap().blocks() * 512;
            assert!(blocks < 4 * MIB, "{blocks} bytes are allocated");
        }
        for name in ["from", "to"] {
            fs::remove_file(path(name)).unwrap();
        }
    }

    #[test]
    fn copy_has_the_content_and_the_holes_of_its_original() {
        check(tempfile::tempdir().unwrap().path());
        check(tempfile::tempdir_in("/dev/shm").unwrap().path());
    }

    #[test]
    fn file_without_data_is_copied_as_one_hole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("from");
        File::create(&path).unwrap().set_len(MIB).unwrap();
        let to = File::create(folder.path().join("to")).unwrap();
        copy(&File::open(&path).unwrap(), &to).unwrap();
        let copied = to.metadata().unwrap();
        assert_eq!((copied.len(), copied.blocks()), (MIB, 0));
    }
}
