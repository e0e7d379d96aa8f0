//! Installs schemathesis, which generates requests for the end-to-end tests, with its dependencies at the versions in
//! `tests/schemathesis.txt`. It stays outside `target`, because the tests run without a network.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::run;
use crate::paths::checkout;
use crate::steps::step;

/// Debian packages that the installation needs.
pub(crate) const PACKAGES: &[&str] = &["python3-venv"];

/// Installs it unless it is installed, and returns the program's path.
pub(crate) fn install() -> Result<PathBuf> {
    let versions = checkout().join("tests/schemathesis.txt");
    let wanted = fs::read_to_string(&versions).with_context(|| versions.display().to_string())?;
    let folder = rigbox_image::default_cache_dir()?.join("schemathesis");
    // Written last, so that a folder with it is complete.
    let installed = folder.join("installed.txt");
    if fs::read_to_string(&installed).is_ok_and(|installed| installed == wanted) {
        return Ok(folder.join("bin/schemathesis"));
    }
    step("install schemathesis", "check that Python packages can be downloaded", || {
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        // Debian's Python, which `python3-venv` belongs to.
        run(Command::new("/usr/bin/python3").args(["-m", "venv"]).arg(&folder))?;
        let mut pip = Command::new(folder.join("bin/pip"));
        run(pip.args(["install", "--quiet", "--disable-pip-version-check", "--requirement"]).arg(&versions))?;
        Ok(fs::write(&installed, &wanted)?)
    })?;
    Ok(folder.join("bin/schemathesis"))
}
