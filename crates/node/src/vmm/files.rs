//! The VMM's own files: the program, the libraries it is linked with and its firmware, copied into one folder at the paths where the
//! program expects them. That folder is the jail's root, so the VMM sees no other file of the host.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::command::run;
use crate::error::Error;

/// Made for one version of the files; a changed file gives another folder.
pub(crate) fn gather(qemu: &Path, into: &Path) -> Result<PathBuf, Error> {
    let mut files = BTreeSet::from([qemu.to_owned()]);
    files.insert(firmware()?);
    files.extend(accelerators());
    for program in files.clone() {
        if program.extension().is_none_or(|extension| extension == "so") {
            files.extend(libraries(&program)?);
        }
    }
    let mut hash = blake3::Hasher::new();
    for file in &files {
        let meta = fs::metadata(file).map_err(Error::at("a file of the VMM is missing", file))?;
        let seen = format!("{} {} {:?}\n", file.display(), meta.len(), meta.modified().ok());
        hash.update(seen.as_bytes());
    }
    let hash = hash.finalize().to_hex();
    let root = into.join(hash.get(..16).unwrap_or_default());
    if root.exists() {
        return Ok(root);
    }
    let new = root.with_extension("new");
    let copy = || -> std::io::Result<()> {
        let _ = fs::remove_dir_all(&new);
        for folder in ["dev", "vm"] {
            fs::create_dir_all(new.join(folder))?;
        }
        for file in &files {
            let to = new.join(file.strip_prefix("/").unwrap_or(file));
            if let Some(folder) = to.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::copy(file, &to)?;
        }
        fs::rename(&new, &root)
    };
    copy().map_err(Error::at("the VMM's files cannot be copied", &new))?;
    Ok(root)
}

/// qboot, the firmware that microvm boots a kernel with when it has no option ROMs. Never SeaBIOS's file of the same name
/// (`/usr/share/seabios/bios-microvm.bin`), which waits for one for ever.
const FIRMWARE: [&str; 2] = ["/usr/share/qemu/qboot.rom", "/usr/share/qemu/bios-microvm.bin"];

/// Path of the firmware, the same in the jail.
pub(crate) fn firmware() -> Result<PathBuf, Error> {
    let found = FIRMWARE.iter().map(PathBuf::from).find(|path| path.exists());
    found.ok_or_else(|| {
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        Error::at("QEMU's firmware for microvm (Debian: package qemu-system-data)", Path::new(FIRMWARE[0]))(
            missing,
        )
    })
}

/// Debian builds accelerators as modules of their own.
fn accelerators() -> Vec<PathBuf> {
    fs::read_dir("/usr/lib/x86_64-linux-gnu/qemu")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("accel-"))
        })
        .collect()
}

/// What the dynamic loader would load, by its own word (`ldd`): `name => path (address)` or `path (address)`.
fn libraries(program: &Path) -> Result<Vec<PathBuf>, Error> {
    let text = run("ldd", &[&program.display().to_string()])?;
    let path = |line: &str| {
        let found = line.split_once("=> ").map_or(line, |(_, path)| path);
        let found = found.split_whitespace().next()?;
        found.starts_with('/').then(|| PathBuf::from(found))
    };
    Ok(text.lines().filter_map(path).collect())
}
