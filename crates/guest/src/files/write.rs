//! Changes of files. A write ends up where `cat > FILE` would put it, with the mode, owner and links that are there, but whole: the content is
//! collected in an unnamed file first, so that an upload that breaks off leaves nothing.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags, fallocate, linkat, open};

use super::Failure;

const DEFAULT_MODE: u32 = 0o644;
const DEFAULT_DIRECTORY_MODE: u32 = 0o755;

/// Replaces the content of a file. `mode` 0 keeps the mode of a file that exists.
pub(super) fn write(
    path: &Path,
    mode: u32,
    create_parents: bool,
    content: &mut impl Read,
) -> Result<(), Failure> {
    let failure = |error: io::Error| Failure::of(path, &error);
    let parent = parent_of(path);
    if create_parents {
        fs::create_dir_all(&parent).map_err(|error| Failure::of(&parent, &error))?;
    }
    // Follows links, as a shell's redirection does.
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            Err(Failure::bad_request(format!("{} is a directory.", path.display())))
        }
        Ok(found) if !found.is_file() => {
            let kind = if found.file_type().is_fifo() { "a pipe" } else { "not a regular file" };
            Err(Failure::bad_request(format!("{} is {kind}.", path.display())))
        }
        Ok(_) => overwrite(path, mode, content).map_err(failure),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // A link that leads nowhere yet is followed too.
            let target = if path.is_symlink() { resolve(path) } else { path.to_owned() };
            create(&target, if mode == 0 { DEFAULT_MODE } else { mode }, content).map_err(failure)
        }
        Err(error) => Err(failure(error)),
    }
}

/// Creates a file, which appears under its name when it is complete.
fn create(path: &Path, mode: u32, content: &mut impl Read) -> io::Result<()> {
    let mut file = File::from(open_unnamed(&parent_of(path))?);
    io::copy(content, &mut file)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()?;
    let unnamed = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    Ok(linkat(CWD, unnamed, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

/// Writes over a file in place, once the content is complete and its space reserved.
fn overwrite(path: &Path, mode: u32, content: &mut impl Read) -> io::Result<()> {
    // Opened first, because it may not be writable.
    let mut file =
        OpenOptions::new().write(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
    // Beside the file if the user may write there, which may be another file system than that of /tmp.
    let unnamed = open_unnamed(&parent_of(path)).or_else(|_| open_unnamed(Path::new("/tmp")))?;
    let mut collected = File::from(unnamed);
    let size = io::copy(content, &mut collected)?;
    if size > 0 {
        match fallocate(&file, FallocateFlags::KEEP_SIZE, 0, size) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    collected.rewind()?;
    io::copy(&mut collected, &mut file)?;
    file.set_len(size)?;
    if mode != 0 {
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    file.sync_all()
}

fn open_unnamed(directory: &Path) -> io::Result<rustix::fd::OwnedFd> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(open(directory, flags, Mode::from_raw_mode(0o600))?)
}

fn resolve(link: &Path) -> PathBuf {
    fs::read_link(link).map_or_else(|_| link.to_owned(), |target| parent_of(link).join(target))
}

fn parent_of(path: &Path) -> PathBuf {
    path.parent().map_or_else(|| PathBuf::from("/"), Path::to_owned)
}

/// Creates a directory. With `create_parents`, one that exists is fine.
pub(super) fn make_directory(path: &Path, mode: u32, create_parents: bool) -> Result<(), Failure> {
    let mode = if mode == 0 { DEFAULT_DIRECTORY_MODE } else { mode };
    let mut builder = fs::DirBuilder::new();
    let created = builder.recursive(create_parents).mode(mode).create(path);
    created.map_err(|error| Failure::of(path, &error))
}

/// Removes a file or a directory. A link is removed, not followed.
pub(super) fn remove(path: &Path, recursive: bool) -> Result<(), Failure> {
    let failure = |error: io::Error| Failure::of(path, &error);
    let is_directory = fs::symlink_metadata(path).map_err(failure)?.is_dir();
    match (is_directory, recursive) {
        (false, _) => fs::remove_file(path),
        (true, false) => fs::remove_dir(path),
        (true, true) => fs::remove_dir_all(path),
    }
    .map_err(failure)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    /// Content that breaks off.
    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("gone"))
        }
    }

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn existing_file_stays_itself() {
        let folder = tempfile::tempdir().unwrap();
        let (file, hard, soft) =
            (folder.path().join("f"), folder.path().join("hard"), folder.path().join("s"));
        fs::write(&file, "a longer old content").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o750)).unwrap();
        fs::hard_link(&file, &hard).unwrap();
        symlink("f", &soft).unwrap();
        let before = fs::metadata(&file).unwrap().ino();
        write(&soft, 0, false, &mut &b"new"[..]).unwrap();
        assert_eq!((fs::read_to_string(&hard).unwrap().as_str(), mode_of(&file)), ("new", 0o750));
        assert_eq!(fs::metadata(&file).unwrap().ino(), before);
        assert!(soft.is_symlink());
        write(&file, 0o600, false, &mut &b""[..]).unwrap();
        assert_eq!((fs::read_to_string(&hard).unwrap().as_str(), mode_of(&hard)), ("", 0o600));
    }

    #[test]
    fn new_file_has_the_mode_and_the_place_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let (deep, soft) = (folder.path().join("a/b/c"), folder.path().join("soft"));
        assert_eq!(write(&deep, 0, false, &mut &b"x"[..]).unwrap_err().code, "not_found");
        write(&deep, 0o755, true, &mut &b"x"[..]).unwrap();
        assert_eq!(mode_of(&deep), 0o755);
        symlink("target", &soft).unwrap();
        write(&soft, 0, false, &mut &b"through"[..]).unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("target")).unwrap(), "through");
        let long = folder.path().join("n".repeat(255));
        write(&long, 0, false, &mut &b"x"[..]).unwrap();
        assert_eq!(mode_of(&long), DEFAULT_MODE);
    }

    #[test]
    fn content_that_breaks_off_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        fs::write(&old, "old").unwrap();
        for path in [&old, &new] {
            assert!(write(path, 0, false, &mut b"some".chain(Broken)).is_err());
        }
        assert_eq!(fs::read_to_string(&old).unwrap(), "old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_regular_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path(), Path::new("/dev/null")] {
            assert_eq!(write(path, 0, false, &mut &b"x"[..]).unwrap_err().code, "bad_request");
        }
        assert_eq!(remove(folder.path(), false), Ok(()));
        assert_eq!(remove(folder.path(), true).unwrap_err().code, "not_found");
        // Its folder is gone already.
        std::mem::drop(folder);
    }
}
