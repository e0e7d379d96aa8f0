//! Installs two WebSocket clients for the tests of edge, at the versions listed beside those tests. They stay outside `target`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::run;
use crate::paths::checkout;
use crate::steps::step;

/// Debian packages that the installation needs, and two HTTP clients of Debian's own.
const PACKAGES: &[&str] = &["curl", "nghttp2-client", "python3-venv"];
/// Debian's Node.js, unless another one is installed: the two conflict.
const NODE: &[&str] = &["nodejs", "npm"];

/// Returns the packages to install.
pub(crate) fn packages() -> Vec<&'static str> {
    let there = Command::new("npm").arg("--version").output().is_ok_and(|output| output.status.success());
    PACKAGES.iter().chain(NODE.iter().filter(|_| !there)).copied().collect()
}

/// Installs them unless they are installed, and returns their folder.
pub(crate) fn install() -> Result<PathBuf> {
    let beside = checkout().join("crates/edge/tests/edge/clients");
    let read = |name: &str| {
        let path = beside.join(name);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    };
    let (python, node) = (read("requirements.txt")?, read("package.json")?);
    let wanted = format!("{python}{node}");
    let folder = rigbox_image::default_cache_dir()?.join("websocket-clients");
    // Written last, so that a folder with it is complete.
    let installed = folder.join("installed.txt");
    if fs::read_to_string(&installed).is_ok_and(|installed| installed == wanted) {
        return Ok(folder);
    }
    step("install WebSocket clients", "check that Python and Node.js packages can be downloaded", || {
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        run(Command::new("/usr/bin/python3").args(["-m", "venv"]).arg(folder.join("venv")))?;
        let mut pip = Command::new(folder.join("venv/bin/pip"));
        pip.args(["install", "--quiet", "--disable-pip-version-check", "--requirement"]);
        run(pip.arg(beside.join("requirements.txt")))?;
        fs::write(folder.join("package.json"), &node)?;
        run(Command::new("npm")
            .args(["install", "--silent", "--no-audit", "--no-fund"])
            .current_dir(&folder))?;
        Ok(fs::write(&installed, &wanted)?)
    })?;
    Ok(folder)
}
