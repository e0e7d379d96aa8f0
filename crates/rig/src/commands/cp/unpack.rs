//! Archive from a workspace, unpacked locally. It may name anything: entries that would end up outside of the target are refused.

use std::fs;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use tar::{Archive, EntryType};
use tokio::sync::mpsc::Receiver;

use crate::failure::Failure;

/// Result of unpacking an archive.
#[derive(Debug, Default)]
pub(super) struct Unpacked {
    /// Bytes of content.
    pub(super) bytes: u64,
    /// Devices, pipes and the like.
    pub(super) skipped: Vec<PathBuf>,
}

/// Unpacks the archive of `name`: into `target` if that is a directory, else as `target`.
pub(super) fn unpack(receiver: Receiver<Vec<u8>>, name: &Path, target: &Path) -> Result<Unpacked, Failure> {
    let failed =
        |error: &dyn std::fmt::Display| Failure::new("copy_failed", format!("{}: {error}", target.display()));
    let archive = PartReader { receiver, part: Vec::new(), start: 0 };
    if target.is_dir() {
        return entries(archive, name, target).map_err(|error| failed(&error));
    }
    let parent = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // Under its own name beside the target, so that its entries need no other names.
    let beside =
        tempfile::Builder::new().prefix(".rig-cp-").tempdir_in(parent).map_err(|error| failed(&error))?;
    let unpacked = entries(archive, name, beside.path()).map_err(|error| failed(&error))?;
    match fs::rename(beside.path().join(name), target) {
        // The workspace's own failure tells more.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(unpacked),
        renamed => renamed.map(|()| unpacked).map_err(|error| failed(&error)),
    }
}

fn entries(archive: impl Read, name: &Path, folder: &Path) -> io::Result<Unpacked> {
    let mut unpacked = Unpacked::default();
    let mut archive = Archive::new(archive);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let is_inside =
            path.starts_with(name) && path.components().all(|part| matches!(part, Component::Normal(_)));
        if !is_inside {
            return Err(io::Error::other(format!(
                "the workspace sent `{}`, which was not asked for",
                path.display()
            )));
        }
        match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                unpacked.bytes += entry.size();
                unpack_entry(&mut entry, folder, &path)?;
            }
            EntryType::Directory | EntryType::Symlink | EntryType::Link => {
                unpack_entry(&mut entry, folder, &path)?;
            }
            _ => unpacked.skipped.push(path),
        }
    }
    Ok(unpacked)
}

fn unpack_entry(entry: &mut tar::Entry<'_, impl Read>, folder: &Path, path: &Path) -> io::Result<()> {
    // Refuses also what a link among the entries would lead outside, and replaces a file, so that a link in its place is not followed.
    if entry.unpack_in(folder)? {
        return Ok(());
    }
    Err(io::Error::other(format!("`{}` would be outside of the target", path.display())))
}

/// Reader of parts.
struct PartReader {
    receiver: Receiver<Vec<u8>>,
    part: Vec<u8>,
    start: usize,
}

impl Read for PartReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.start == self.part.len() {
            match self.receiver.blocking_recv() {
                Some(part) => (self.part, self.start) = (part, 0),
                None => return Ok(0),
            }
        }
        let count = self.part.get(self.start..).unwrap_or_default().read(buffer)?;
        self.start += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tar::{Builder, Header};

    use super::*;

    fn header(kind: EntryType, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o755);
        header
    }

    /// Appends an entry whose name is not checked.
    fn append(archive: &mut Builder<Vec<u8>>, name: &str, kind: EntryType, link: &str, content: &[u8]) {
        let mut header = header(kind, content.len() as u64);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        if !link.is_empty() {
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        }
        header.set_cksum();
        archive.append(&header, content).unwrap();
    }

    fn unpack_all(archive: Builder<Vec<u8>>, name: &str, target: &Path) -> Result<Unpacked, Failure> {
        #[expect(clippy::disallowed_methods, reason = "the parts of a test")]
        let (sender, receiver) = tokio::sync::mpsc::channel(1024);
        for part in archive.into_inner().unwrap().chunks(700) {
            sender.try_send(part.to_vec()).unwrap();
        }
        drop(sender);
        unpack(receiver, Path::new(name), target)
    }

    #[test]
    fn tree_is_unpacked_into_a_directory_or_under_a_new_name() {
        let folder = tempfile::tempdir().unwrap();
        for target in [folder.path().to_owned(), folder.path().join("new")] {
            let mut archive = Builder::new(Vec::new());
            append(&mut archive, "tree", EntryType::Directory, "", b"");
            append(&mut archive, "tree/run", EntryType::Regular, "", b"hello");
            append(&mut archive, "tree/link", EntryType::Symlink, "run", b"");
            append(&mut archive, "tree/pipe", EntryType::Fifo, "", b"");
            let unpacked = unpack_all(archive, "tree", &target).unwrap();
            assert_eq!((unpacked.bytes, unpacked.skipped), (5, vec![PathBuf::from("tree/pipe")]));
        }
        for root in ["tree", "new"] {
            let run = folder.path().join(root).join("run");
            assert_eq!(fs::read_to_string(folder.path().join(root).join("link")).unwrap(), "hello");
            assert_eq!(fs::metadata(run).unwrap().permissions().mode() & 0o777, 0o755);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing temporary stays");
    }

    #[test]
    fn nothing_is_written_outside_of_the_target() {
        let outside = tempfile::tempdir().unwrap();
        let secret = outside.path().join("secret");
        fs::write(&secret, "mine").unwrap();
        let out = outside.path().to_str().unwrap();
        for (name, entries) in [
            ("tree", vec![("../escaped", EntryType::Regular, "")]),
            ("tree", vec![("tree/../../escaped", EntryType::Regular, "")]),
            ("tree", vec![("other", EntryType::Regular, "")]),
            ("tree", vec![("/tmp/escaped", EntryType::Regular, "")]),
            ("tree", vec![("tree", EntryType::Symlink, out), ("tree/secret", EntryType::Regular, "")]),
            (
                "tree",
                vec![
                    ("tree", EntryType::Directory, ""),
                    ("tree/x", EntryType::Symlink, out),
                    ("tree/x/secret", EntryType::Regular, ""),
                ],
            ),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let mut archive = Builder::new(Vec::new());
            for (path, kind, link) in &entries {
                append(&mut archive, path, *kind, link, b"");
            }
            assert!(unpack_all(archive, name, folder.path()).is_err(), "{entries:?}");
            assert!(!folder.path().parent().unwrap().join("escaped").exists());
            assert_eq!(fs::read_to_string(&secret).unwrap(), "mine", "{entries:?}");
        }
        // A link in the place of a file is replaced, not followed.
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(&secret, folder.path().join("file")).unwrap();
        let mut archive = Builder::new(Vec::new());
        append(&mut archive, "file", EntryType::Regular, "", b"theirs");
        unpack_all(archive, "file", folder.path()).unwrap();
        assert_eq!(fs::read_to_string(&secret).unwrap(), "mine");
    }
}
