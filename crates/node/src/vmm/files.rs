//! A VMM's own files: the program, its libraries and its firmware, copied into one folder at the paths where the program expects them.
//! That folder is the root of the jail, so the VMM sees no other file of the host.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::command::run;
use crate::error::Error;

/// Copies QEMU's files to a folder below `parent` and returns it.
pub(super) fn install_qemu(qemu: &Path, parent: &Path) -> Result<PathBuf, Error> {
    let mut programs = accelerator_modules();
    programs.push(qemu.to_owned());
    install(programs, [firmware()?].into(), parent)
}

/// Copies Firecracker's files to a folder below `parent` and returns it.
pub(super) fn install_firecracker(program: &Path, parent: &Path) -> Result<PathBuf, Error> {
    install(vec![program.to_owned()], BTreeSet::new(), parent)
}

/// Returns the name of the version of a VMM's files, which are in `root`.
pub(super) fn version(root: &Path) -> String {
    root.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Copies programs with their libraries, and other files. Each version of the files has a folder of its own.
pub(super) fn install(
    programs: Vec<PathBuf>,
    mut files: BTreeSet<PathBuf>,
    parent: &Path,
) -> Result<PathBuf, Error> {
    for program in programs {
        files.extend(libraries(&program)?);
        files.insert(program);
    }
    let mut hash = blake3::Hasher::new();
    for file in &files {
        let meta = fs::metadata(file).map_err(Error::at("find the VMM's file", file))?;
        let fingerprint = format!("{} {} {:?}\n", file.display(), meta.len(), meta.modified().ok());
        hash.update(fingerprint.as_bytes());
    }
    let hash = hash.finalize().to_hex();
    let root = parent.join(hash.get(..16).unwrap_or_default());
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
    copy().map_err(Error::at("copy the VMM's files to", &new))?;
    Ok(root)
}

/// Paths of qboot, the firmware with which microvm boots a kernel without option ROMs. Not SeaBIOS's file of the same name
/// (`/usr/share/seabios/bios-microvm.bin`), which waits for an option ROM forever.
const FIRMWARE_PATHS: [&str; 2] = ["/usr/share/qemu/qboot.rom", "/usr/share/qemu/bios-microvm.bin"];

/// Returns the path of the firmware, the same inside the jail.
pub(super) fn firmware() -> Result<PathBuf, Error> {
    let found = FIRMWARE_PATHS.iter().map(PathBuf::from).find(|path| path.exists());
    found.ok_or_else(|| {
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        Error::at("find QEMU's microvm firmware (install qemu-system-data)", Path::new(FIRMWARE_PATHS[0]))(
            missing,
        )
    })
}

/// Returns QEMU's accelerators, which Debian builds as separate modules.
fn accelerator_modules() -> Vec<PathBuf> {
    fs::read_dir("/usr/lib/x86_64-linux-gnu/qemu")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("accel-"))
        })
        .collect()
}

/// Returns the shared libraries of a program from the output of ldd(1): `name => path (address)` or `path (address)`.
fn libraries(program: &Path) -> Result<Vec<PathBuf>, Error> {
    let text = match run("ldd", &[&program.display().to_string()]) {
        Ok(text) => text,
        // So it ends for a program that is linked statically, as the official Firecracker is.
        Err(error) if error.to_string().contains("not a dynamic executable") => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let path = |line: &str| {
        let found = line.split_once("=> ").map_or(line, |(_, path)| path);
        let found = found.split_whitespace().next()?;
        found.starts_with('/').then(|| PathBuf::from(found))
    };
    Ok(text.lines().filter_map(path).collect())
}
