//! Content and descriptions of files.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rigbox_proto::guest::file_entry::Kind;
use rigbox_proto::guest::{FileEntry, FileInfo};
use rustix::fs::OFlags;

use super::{Failure, write_message};

/// Writes the description of a file and then its content.
pub(super) fn read(path: &Path, offset: u64, limit: u64) -> Result<(), Failure> {
    let failure = |error: io::Error| Failure::of(path, &error);
    // Not waiting for a pipe's other end.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failure)?;
    let found = file.metadata().map_err(failure)?;
    if found.is_dir() {
        return Err(Failure::bad_request(format!("{} is a directory.", path.display())));
    }
    if !found.is_file() {
        return Err(Failure::bad_request(format!("{} is not a regular file.", path.display())));
    }
    let info = FileInfo { size: found.len(), mode: found.mode() & 0o7777, modified_unix_s: found.mtime() };
    write_message(&info).map_err(failure)?;
    copy(&mut file, offset, if limit == 0 { u64::MAX } else { limit }).map_err(failure)
}

fn copy(file: &mut File, offset: u64, limit: u64) -> io::Result<()> {
    if offset > 0 {
        file.seek(SeekFrom::Start(offset))?;
    }
    let mut stdout = io::stdout().lock();
    io::copy(&mut file.take(limit), &mut stdout)?;
    stdout.flush()
}

/// Writes the description of a file. A link describes itself.
pub(super) fn stat(path: &Path) -> Result<(), Failure> {
    let failure = |error: io::Error| Failure::of(path, &error);
    let found = fs::symlink_metadata(path).map_err(failure)?;
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    write_message(&entry(path, name, &found)).map_err(failure)
}

/// Writes the descriptions of a directory's files, in the order of their names.
pub(super) fn list(path: &Path) -> Result<(), Failure> {
    let failure = |error: io::Error| Failure::of(path, &error);
    let mut names = Vec::new();
    for found in fs::read_dir(path).map_err(failure)? {
        names.push(found.map_err(failure)?.file_name());
    }
    names.sort_unstable();
    for name in names {
        let path = path.join(&name);
        // It may have been removed meanwhile.
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        write_message(&entry(&path, name.to_string_lossy().into_owned(), &found)).map_err(failure)?;
    }
    Ok(())
}

fn entry(path: &Path, name: String, found: &Metadata) -> FileEntry {
    let kind = match found.file_type() {
        kind if kind.is_file() => Kind::File,
        kind if kind.is_dir() => Kind::Directory,
        kind if kind.is_symlink() => Kind::Symlink,
        _ => Kind::Other,
    };
    let target = fs::read_link(path).map(|target| target.to_string_lossy().into_owned());
    FileEntry {
        name,
        kind: kind.into(),
        size: found.len(),
        mode: found.mode() & 0o7777,
        modified_unix_s: found.mtime(),
        uid: found.uid(),
        gid: found.gid(),
        target: target.unwrap_or_default(),
    }
}
