//! Sets of Python packages that tests and benchmarks run, with their dependencies at listed versions, each in a virtual environment of its
//! own. They stay outside `target`, because tests run without a network.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::run;
use crate::installed;
use crate::paths::checkout;

/// Debian packages that the installation needs.
pub(crate) const PACKAGES: &[&str] = &["python3-venv"];

/// Set of packages.
pub(crate) struct PythonPackages {
    name: &'static str,
    /// File in the checkout with their versions.
    versions: &'static str,
}

/// Generator of requests for the end-to-end tests.
pub(crate) const SCHEMATHESIS: PythonPackages =
    PythonPackages { name: "schemathesis", versions: "tests/schemathesis.txt" };
/// Proxy beside ours in the benchmark `ai`, with the hash of each package.
pub(crate) const LITELLM: PythonPackages =
    PythonPackages { name: "litellm", versions: "bench/litellm/requirements.txt" };

impl PythonPackages {
    /// Installs them unless they are installed, and returns the folder of their virtual environment.
    pub(crate) fn install(&self) -> Result<PathBuf> {
        let versions = checkout().join(self.versions);
        let wanted = fs::read_to_string(&versions).with_context(|| versions.display().to_string())?;
        let remedy = "check that Python packages can be downloaded";
        installed::once(self.name, &wanted, remedy, |folder| {
            environment(folder, [OsStr::new("--requirement"), versions.as_os_str()])
        })
    }
}

/// Makes a virtual environment with packages, which `pip install` is told by `what`.
pub(crate) fn environment<S: AsRef<OsStr>>(folder: &Path, what: impl IntoIterator<Item = S>) -> Result<()> {
    // Debian's Python, which `python3-venv` belongs to.
    run(Command::new("/usr/bin/python3").args(["-m", "venv"]).arg(folder))?;
    let mut pip = Command::new(folder.join("bin/pip"));
    run(pip.args(["install", "--quiet", "--disable-pip-version-check"]).args(what))
}
