//! What the builder takes from the machine it runs on: programs, apt's sources and apt's network options.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command;
use crate::error::Error;
use crate::sources::{self, Source};

/// The Debian packages a machine needs to build images.
pub const HOST_PACKAGES: &[&str] =
    &["mmdebstrap", "e2fsprogs", "debian-archive-keyring", "util-linux", "apt", "dpkg"];

/// The programs the builder calls; all come with [`HOST_PACKAGES`].
const PROGRAMS: &[&str] = &[
    "mmdebstrap",
    "mkfs.ext4",
    "unshare",
    "setpriv",
    "apt-config",
    "apt-get",
    "dpkg-deb",
    "dpkg-query",
    "chroot",
];

/// Fails, naming the line to type, when this machine cannot build images.
pub(crate) fn check() -> Result<(), Error> {
    let missing: Vec<String> = PROGRAMS.iter().filter(|p| !on_path(p)).map(|p| (*p).to_owned()).collect();
    if !missing.is_empty() {
        return Err(Error::MissingPrograms { programs: missing, packages: HOST_PACKAGES.join(" ") });
    }
    if nix::unistd::geteuid().is_root() { Ok(()) } else { Err(Error::NotRoot) }
}

fn on_path(program: &str) -> bool {
    std::env::split_paths(command::PATH).any(|dir| dir.join(program).is_file())
}

/// The machine's own Debian sources for `suite`, so that its mirror is used; Debian's public mirror when the
/// machine has none (another release, or a derivative).
pub(crate) fn sources_for(suite: &str) -> Result<Vec<Source>, Error> {
    let mut found = Vec::new();
    for file in source_files(Path::new("/etc/apt"))? {
        let text = std::fs::read_to_string(&file).map_err(Error::file("read", &file))?;
        let deb822 = file.extension().is_some_and(|e| e == "sources");
        let parsed = if deb822 { sources::parse_deb822(&text) } else { sources::parse_one_line(&text) };
        found.extend(parsed.into_iter().filter_map(|source| source.debian_only(suite)));
    }
    let complete = found.iter().any(|source: &Source| source.suites.iter().any(|s| s == suite));
    Ok(if complete { found } else { sources::public(suite) })
}

fn source_files(etc: &Path) -> Result<Vec<PathBuf>, Error> {
    let parts = etc.join("sources.list.d");
    let mut files = Vec::new();
    if parts.is_dir() {
        for entry in std::fs::read_dir(&parts).map_err(Error::file("list", &parts))? {
            let path = entry.map_err(Error::file("list", &parts))?.path();
            // apt itself ignores every other ending.
            if path.extension().is_some_and(|e| e == "sources" || e == "list") {
                files.push(path);
            }
        }
    }
    files.sort();
    let main = etc.join("sources.list");
    if main.is_file() {
        files.insert(0, main);
    }
    Ok(files)
}

/// The `Acquire::` options of this machine's apt (proxies, retries, checks), which mmdebstrap does not inherit.
pub(crate) fn acquire_options() -> Result<Vec<String>, Error> {
    let dump = command::output(Command::new("apt-config").arg("dump"), "reading apt's network options")?;
    Ok(sources::acquire_options(&dump))
}
