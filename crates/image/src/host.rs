//! Parts of the host that a build uses: programs, apt's sources and apt's network options.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command;
use crate::error::Error;
use crate::sources::{self, Source};

/// Debian packages that a host needs to build images, besides npm.
const PACKAGES: &[&str] =
    &["mmdebstrap", "e2fsprogs", "debian-archive-keyring", "util-linux", "apt", "dpkg", "python3-pip"];
/// Debian's npm, which conflicts with other packages of Node.js.
const NPM_PACKAGES: &[&str] = &["nodejs", "npm"];

/// Returns the Debian packages that this host needs to build images.
pub fn host_packages() -> Vec<&'static str> {
    let npm: &[&str] = if is_installed("npm") { &[] } else { NPM_PACKAGES };
    [PACKAGES, npm].concat()
}

/// Programs that the builder runs, all from [`host_packages`].
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
    "pip3",
    "npm",
];

/// Checks that this host can build images.
pub(crate) fn check() -> Result<(), Error> {
    let missing: Vec<String> =
        PROGRAMS.iter().filter(|p| !is_installed(p)).map(|p| (*p).to_owned()).collect();
    if !missing.is_empty() {
        return Err(Error::MissingPrograms { programs: missing, packages: host_packages().join(" ") });
    }
    if nix::unistd::geteuid().is_root() { Ok(()) } else { Err(Error::NotRoot) }
}

fn is_installed(program: &str) -> bool {
    std::env::split_paths(command::PATH).any(|dir| dir.join(program).is_file())
}

/// Returns the host's Debian sources for `suite`, so that its mirror is used. Falls back to Debian's public mirror if the host runs another
/// release or a derivative.
pub(crate) fn sources_for(suite: &str) -> Result<Vec<Source>, Error> {
    let mut found = Vec::new();
    for file in source_files(Path::new("/etc/apt"))? {
        let text = std::fs::read_to_string(&file).map_err(Error::file("read", &file))?;
        let is_deb822 = file.extension().is_some_and(|e| e == "sources");
        let parsed =
            if is_deb822 { sources::parse_deb822(&text) } else { sources::parse_sources_list(&text) };
        found.extend(parsed.into_iter().filter_map(|source| source.debian_only(suite)));
    }
    let has_release = found.iter().any(|source: &Source| source.suites.iter().any(|s| s == suite));
    Ok(if has_release { found } else { sources::public_mirror(suite) })
}

/// Lists apt's source files in the order in which apt reads them.
fn source_files(etc: &Path) -> Result<Vec<PathBuf>, Error> {
    let parts = etc.join("sources.list.d");
    let mut files = Vec::new();
    if parts.is_dir() {
        for entry in std::fs::read_dir(&parts).map_err(Error::file("list", &parts))? {
            let path = entry.map_err(Error::file("list", &parts))?.path();
            // apt ignores all other extensions.
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

/// Returns the `Acquire::` options of the host's apt (proxies, retries, checks), which mmdebstrap does not inherit.
pub(crate) fn acquire_options() -> Result<Vec<String>, Error> {
    let dump = command::output(Command::new("apt-config").arg("dump"), "reading apt's network options")?;
    Ok(sources::acquire_options(&dump))
}
