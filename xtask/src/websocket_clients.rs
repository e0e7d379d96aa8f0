//! Two WebSocket clients for the tests of edge, at the versions that stand beside these tests, kept outside `target`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::build::run;
use crate::place::checkout;
use crate::steps::step;

/// What installing and running them needs of Debian; and two clients of HTTP that are Debian's own.
const PACKAGES: &[&str] = &["curl", "nghttp2-client", "python3-venv"];
/// Node.js, where it does not come from elsewhere: Debian's does not go beside another one.
const NODE: &[&str] = &["nodejs", "npm"];

/// The packages that are needed here.
pub(crate) fn packages() -> Vec<&'static str> {
    let there = Command::new("npm").arg("--version").output().is_ok_and(|output| output.status.success());
    PACKAGES.iter().chain(NODE.iter().filter(|_| !there)).copied().collect()
}

/// Installs them unless they are there; returns their folder.
pub(crate) fn install() -> Result<PathBuf> {
    let beside = checkout().join("crates/edge/tests/edge/clients");
    let read = |name: &str| {
        let path = beside.join(name);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    };
    let (python, node) = (read("requirements.txt")?, read("package.json")?);
    let wanted = format!("{python}{node}");
    let folder = rigbox_image::default_cache_dir()?.join("websocket-clients");
    // Written last: what is there is whole.
    let installed = folder.join("installed.txt");
    if fs::read_to_string(&installed).is_ok_and(|installed| installed == wanted) {
        return Ok(folder);
    }
    step("install WebSocket clients", "see that packages of Python and Node.js can be downloaded", || {
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
