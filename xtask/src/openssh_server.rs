//! OpenSSH's server for `cargo xtask bench ssh`: Debian's packages, unpacked and not installed, because an installed one listens.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::build;
use crate::command::run;
use crate::steps::step;

/// The server, and its only library that the client's package does not bring.
const PACKAGES: [&str; 2] = ["libwrap0", "openssh-server"];

/// Unpacks the server unless it is there, and returns the folder, in which it is as if installed. The client is installed.
pub(crate) fn unpack() -> Result<PathBuf> {
    build::install_packages(&[&["openssh-client"]])?;
    let cache = rigbox_image::default_cache_dir()?;
    let (folder, scratch) = (cache.join("openssh-server"), cache.join("openssh-server.new"));
    if folder.is_dir() {
        return Ok(folder);
    }
    step("unpack OpenSSH's server", "run it as root, on Debian 12, with working apt sources", || {
        if scratch.exists() {
            fs::remove_dir_all(&scratch)?;
        }
        let (packages, root) = (scratch.join("packages"), scratch.join("root"));
        fs::create_dir_all(&packages)?;
        run(Command::new("apt-get").args(["-qq", "update"]))?;
        run(Command::new("apt-get").args(["-qq", "download"]).args(PACKAGES).current_dir(&packages))?;
        for package in fs::read_dir(&packages)? {
            run(Command::new("dpkg-deb").arg("--extract").arg(package?.path()).arg(&root))?;
        }
        // Last, so that a folder that is there is complete.
        fs::rename(&root, &folder)?;
        Ok(fs::remove_dir_all(&scratch)?)
    })?;
    Ok(folder)
}
