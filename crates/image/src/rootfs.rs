//! Root file system as a tree: installed by mmdebstrap, then customized according to the recipe.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::command;
use crate::error::Error;
use crate::host;
use crate::image::{Package, Registry};
use crate::inputs;
use crate::recipe::{Recipe, relative_to_root};

/// Script that mmdebstrap runs before it finishes.
const HOOK_SCRIPT: &str = include_str!("hook.sh");

/// Traces of the build host that mmdebstrap leaves, and secrets that must not be the same in two VMs.
const HOST_TRACES: &[&str] = &[
    "etc/hostname",
    "etc/resolv.conf",
    "etc/apt/apt.conf.d/99mmdebstrap",
    "etc/apt/sources.list",
    "etc/apt/sources.list.d",
    "etc/machine-id",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
];

/// Folders of one build.
pub(crate) struct WorkDir {
    /// Tree that becomes the root file system.
    pub(crate) root: PathBuf,
    /// Unpacked kernel package.
    pub(crate) kernel: PathBuf,
    /// Downloaded PyPI packages.
    pub(crate) pypi: PathBuf,
    /// Downloaded npm packages.
    pub(crate) npm: PathBuf,
    dir: PathBuf,
}

impl WorkDir {
    /// Uses `dir`, which exists and is empty.
    pub(crate) fn new(dir: &Path) -> Self {
        let [root, kernel, pypi, npm] = ["root", "kernel", "pypi", "npm"].map(|name| dir.join(name));
        Self { root, kernel, pypi, npm, dir: dir.to_owned() }
    }
}

/// Installs the recipe's packages into `work.root`.
pub(crate) fn install(recipe: &Recipe, work: &WorkDir, progress: &mut dyn FnMut(&str)) -> Result<(), Error> {
    let sources = work.dir.join("debian.sources");
    let paragraphs: Vec<String> = host::sources_for(&recipe.suite)?.iter().map(|s| s.to_deb822()).collect();
    write(&sources, paragraphs.join("\n").as_bytes(), 0o644)?;
    let hook = work.dir.join("hook.sh");
    write(&hook, HOOK_SCRIPT.as_bytes(), 0o755)?;

    // mmdebstrap mounts /proc, /sys and /dev into the tree. It runs in namespaces of its own, which end with this process, so a killed
    // build leaves neither processes nor mounts, and its folder can simply be deleted.
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--kill-child", "--mount-proc"])
        .args(["mmdebstrap", "--mode=root", "--variant=minbase", "--architectures=amd64", "--format=directory"])
        .arg(format!("--include={}", recipe.packages.join(",")))
        // An unfinished tree is worthless after a power failure, so dpkg need not wait for the disk.
        .arg("--setup-hook=mkdir -p \"$1/etc/dpkg/dpkg.cfg.d\" && echo force-unsafe-io >\"$1/etc/dpkg/dpkg.cfg.d/fast\"")
        .arg(format!("--customize-hook={}", hook.display()))
        .arg("--customize-hook=rm \"$1/etc/dpkg/dpkg.cfg.d/fast\"");
    for option in host::acquire_options()? {
        command.arg(format!("--aptopt={option}"));
    }
    for pattern in &recipe.excluded {
        command.arg(format!("--dpkgopt=path-exclude={pattern}"));
    }
    for unit in &recipe.excluded_units {
        for folder in ["system", "system/*.wants"] {
            command.arg(format!("--dpkgopt=path-exclude=/lib/systemd/{folder}/{unit}"));
        }
    }
    for pattern in &recipe.included {
        command.arg(format!("--dpkgopt=path-include={pattern}"));
    }
    command.arg(&recipe.suite).arg(&work.root).arg(&sources);
    command.env("WORK", &work.dir).env("KERNEL", &recipe.kernel).env("LC_ALL", "C.UTF-8");
    command.env("PATH", command::PATH);
    command::run_with_progress(&mut command, "installing the packages", &mut |line| {
        if let Some(step) = line.strip_prefix("I: ") {
            progress(step);
        }
    })
}

/// Applies the recipe's files, links and masks to the tree and removes the traces of the build host.
pub(crate) fn customize(recipe: &Recipe, recipe_dir: &Path, work: &WorkDir) -> Result<(), Error> {
    let root = &work.root;
    for path in HOST_TRACES {
        remove(&root.join(path))?;
    }
    for path in ssh_host_keys(root)? {
        remove(&path)?;
    }
    for path in &recipe.removed {
        remove(&root.join(resolve(recipe_dir, path)?))?;
    }
    copy_overlay(recipe, recipe_dir, root)?;
    for unit in &recipe.masked {
        link(Path::new("/dev/null"), &root.join("etc/systemd/system").join(unit))?;
    }
    for generator in &recipe.masked_generators {
        link(Path::new("/dev/null"), &root.join("etc/systemd/system-generators").join(generator))?;
    }
    for (path, target) in &recipe.links {
        link(target, &root.join(resolve(recipe_dir, path)?))?;
    }
    // Empty, but present: the agent writes a new id before systemd starts, so systemd does not treat it as the first boot.
    write(&root.join("etc/machine-id"), b"", 0o444)?;
    write_update_stamps(root)
}

/// Lists the Debian packages in the tree and the kernel package.
pub(crate) fn packages(work: &WorkDir) -> Result<Vec<Package>, Error> {
    let mut query = Command::new("dpkg-query");
    query.arg(format!("--admindir={}", work.root.join("var/lib/dpkg").display()));
    query.args(["--show", "--showformat", "${Package}\t${Version}\n"]);
    let kernel = work.dir.join("kernel.tsv");
    let mut text = std::fs::read_to_string(&kernel).map_err(Error::file("read", &kernel))?;
    text.push_str(&command::output(&mut query, "listing the image's packages")?);
    let package = |line: &str| {
        let (name, version) = line.split_once('\t')?;
        Some(Package::new(Registry::Debian, name, version))
    };
    Ok(text.lines().filter_map(package).collect())
}

/// Copies the recipe's `files/` to the tree.
fn copy_overlay(recipe: &Recipe, recipe_dir: &Path, root: &Path) -> Result<(), Error> {
    for file in inputs::overlay_files(recipe_dir)? {
        let path_in_vm = Path::new("/").join(&file.path);
        let mode = recipe.mode(&path_in_vm).map_err(|problem| recipe_error(recipe_dir, problem))?;
        // Only the executable bit is copied, because the other bits in a checkout depend on the umask.
        let mode = mode.unwrap_or(if file.executable { 0o755 } else { 0o644 });
        let to = root.join(&file.path);
        remove(&to)?;
        write(&to, &file.content, mode)?;
    }
    Ok(())
}

/// Marks the caches that systemd derives from `/usr` as up to date. Otherwise the first boot would rebuild the linker's cache, the journal's
/// catalog, the hardware database and more.
fn write_update_stamps(root: &Path) -> Result<(), Error> {
    let usr = root.join("usr");
    let changed = usr.metadata().and_then(|m| m.modified()).map_err(Error::file("read the time of", &usr))?;
    let later = changed.max(SystemTime::now()) + Duration::from_secs(2);
    for name in ["etc/.updated", "var/.updated"] {
        let path = root.join(name);
        write(&path, b"# /usr is as new as this file\n", 0o644)?;
        let file = std::fs::File::options().write(true).open(&path).map_err(Error::file("open", &path))?;
        file.set_modified(later).map_err(Error::file("set the time of", &path))?;
    }
    Ok(())
}

fn ssh_host_keys(root: &Path) -> Result<Vec<PathBuf>, Error> {
    let ssh = root.join("etc/ssh");
    let mut keys = Vec::new();
    if ssh.is_dir() {
        for entry in std::fs::read_dir(&ssh).map_err(Error::file("list", &ssh))? {
            let entry = entry.map_err(Error::file("list", &ssh))?;
            if entry.file_name().to_string_lossy().starts_with("ssh_host_") {
                keys.push(entry.path());
            }
        }
    }
    Ok(keys)
}

fn resolve<'a>(recipe_dir: &Path, path: &'a Path) -> Result<&'a Path, Error> {
    relative_to_root(path).map_err(|problem| recipe_error(recipe_dir, problem))
}

fn recipe_error(recipe_dir: &Path, problem: String) -> Error {
    Error::Recipe { path: recipe_dir.join("recipe.toml"), problem }
}

/// Removes a file, link or folder, if it exists.
fn remove(path: &Path) -> Result<(), Error> {
    let result = match path.symlink_metadata() {
        Err(_) => return Ok(()),
        Ok(found) if found.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
    };
    result.map_err(Error::file("remove", path))
}

fn link(target: &Path, path: &Path) -> Result<(), Error> {
    create_parents(path)?;
    remove(path)?;
    symlink(target, path).map_err(Error::file("link", path))
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
    create_parents(path)?;
    std::fs::write(path, content).map_err(Error::file("write", path))?;
    std::fs::set_permissions(path, Permissions::from_mode(mode)).map_err(Error::file("set the mode of", path))
}

/// Creates the missing parents of a path.
fn create_parents(path: &Path) -> Result<(), Error> {
    let Some(parent) = path.parent().filter(|p| !p.is_dir()) else { return Ok(()) };
    create_parents(parent)?;
    std::fs::create_dir(parent).map_err(Error::file("create", parent))?;
    // Independent of the umask: a folder that only root may enter would break the VM's users.
    std::fs::set_permissions(parent, Permissions::from_mode(0o755))
        .map_err(Error::file("set the mode of", parent))
}
