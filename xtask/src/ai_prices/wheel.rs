//! A wheel from the package registry, pinned by its hash: one file of it is read, and nothing is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::run;
use crate::steps::step;

/// File in a wheel.
pub(super) struct Wheel {
    /// Package and version, as pip writes them.
    pub(super) requirement: &'static str,
    /// SHA-256 of the wheel, hexadecimal.
    pub(super) sha256: &'static str,
    /// Path of the file in it.
    pub(super) member: &'static str,
}

impl Wheel {
    /// Returns the content of the file.
    pub(super) fn read(&self) -> Result<Vec<u8>> {
        let wheel = self.download()?;
        let output = Command::new("unzip").arg("-p").arg(&wheel).arg(self.member).output();
        let output = output.context("cannot run unzip: install the package `unzip`")?;
        anyhow::ensure!(output.status.success(), "{} lacks {}", wheel.display(), self.member);
        Ok(output.stdout)
    }

    /// Downloads the wheel unless it is there, and checks its hash.
    fn download(&self) -> Result<PathBuf> {
        let folder = rigbox_image::default_cache_dir()?.join("ai-prices").join(self.sha256);
        if wheel_in(&folder).is_none() {
            step("download a wheel", "check that Python packages can be downloaded", || {
                fs::create_dir_all(&folder)?;
                let mut pip = Command::new("python3");
                pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
                pip.args(["--only-binary", ":all:", "--platform", "manylinux_2_28_x86_64"]);
                pip.args(["--python-version", "3.11", "--dest"]).arg(&folder);
                run(pip.arg(self.requirement))
            })?;
        }
        let wheel = wheel_in(&folder).context("pip has downloaded no wheel")?;
        let output = Command::new("sha256sum").arg(&wheel).output().context("cannot run sha256sum")?;
        let hash = String::from_utf8_lossy(&output.stdout);
        anyhow::ensure!(hash.starts_with(self.sha256), "{} has another hash: {hash}", wheel.display());
        Ok(wheel)
    }
}

fn wheel_in(folder: &Path) -> Option<PathBuf> {
    let paths = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    paths.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "whl"))
}
