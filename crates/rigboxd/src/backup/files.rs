//! Files of a backup. Everything is for root only. Control can write to its own folder, so no link in there is followed.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rustix::fs::OFlags;

/// Returns all files below a folder, sorted. Anything else than files and folders is an error.
pub(crate) fn below(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let entry = entry?;
            let kind = entry.file_type()?;
            match (kind.is_dir(), kind.is_file()) {
                (true, _) => folders.push(entry.path()),
                (_, true) => found.push(entry.path()),
                _ => anyhow::bail!("{} is neither a file nor a folder: remove it", entry.path().display()),
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Makes durable which files a folder and those below it have.
pub(crate) fn sync_folders(folder: &Path) -> Result<()> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        File::open(&folder)?.sync_all()?;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(())
}

/// Creates a folder that is for root only, or takes an empty one.
pub(crate) fn create_folder(folder: &Path) -> Result<PathBuf> {
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let is_empty = fs::read_dir(folder)
                .with_context(|| format!("cannot list {}", folder.display()))?
                .next()
                .is_none();
            ensure!(is_empty, "{} is not empty. Name a new folder", folder.display());
            fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
        }
        created => created.with_context(|| format!("cannot create {}", folder.display()))?,
    }
    folder.canonicalize().with_context(|| format!("cannot resolve {}", folder.display()))
}

/// Writes a new private file, durably.
pub(crate) fn write_new(path: &Path, content: &[u8]) -> Result<()> {
    let write = || {
        let mut file = create_new(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Copies a file, of which no link is followed, to a new private one, durably.
pub(crate) fn copy_new(from: &Path, to: &Path) -> Result<()> {
    let copy = || {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mut source = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(from)?;
        if !source.metadata()?.is_file() {
            return Err(io::Error::other("it is no file"));
        }
        let mut file = create_new(to)?;
        io::copy(&mut source, &mut file)?;
        file.sync_all()
    };
    copy().with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

/// Removes a file, if there is one.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn create_new(path: &Path) -> io::Result<File> {
    File::options().write(true).create_new(true).mode(0o600).open(path)
}
