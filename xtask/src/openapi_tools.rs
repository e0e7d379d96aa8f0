//! Installs validators of OpenAPI documents and generators of clients, at the versions in `tests/openapi`. They stay outside `target`,
//! because the tests run without a network.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::run;
use crate::paths::checkout;
use crate::steps::step;

/// Variable with the folder, for the tests.
pub(crate) const FOLDER: &str = "RIGBOX_OPENAPI_TOOLS";

/// Installs them unless they are installed, and returns their folder. Python and Node.js have to be there
/// (`websocket_clients::packages`).
pub(crate) fn install() -> Result<PathBuf> {
    let beside = checkout().join("tests/openapi");
    let read = |name: &str| {
        let path = beside.join(name);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    };
    let (python, node) = (read("requirements.txt")?, read("package.json")?);
    let wanted = format!("{python}{node}");
    let folder = rigbox_image::default_cache_dir()?.join("openapi-tools");
    // Written last, so that a folder with it is complete.
    let installed = folder.join("installed.txt");
    if fs::read_to_string(&installed).is_ok_and(|installed| installed == wanted) {
        return Ok(folder);
    }
    step("install OpenAPI tools", "check that Python and Node.js packages can be downloaded", || {
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        run(Command::new("/usr/bin/python3").args(["-m", "venv"]).arg(folder.join("venv")))?;
        let mut pip = Command::new(folder.join("venv/bin/pip"));
        pip.args(["install", "--quiet", "--disable-pip-version-check", "--requirement"]);
        run(pip.arg(beside.join("requirements.txt")))?;
        fs::write(folder.join("package.json"), &node)?;
        // Nothing that a package wants to run while it is installed is needed.
        run(Command::new("npm")
            .args(["install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"])
            .current_dir(&folder))?;
        Ok(fs::write(&installed, &wanted)?)
    })?;
    Ok(folder)
}
