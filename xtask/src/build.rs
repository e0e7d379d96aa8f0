//! Builds the programs, and installs missing Debian packages.

use std::process::{Command, Stdio};

use anyhow::Result;

use crate::command::{cargo, run};
use crate::static_programs;
use crate::steps::step;

/// Debian packages that Rigbox needs at run time.
pub(crate) const RUN_PACKAGES: &[&str] =
    &["qemu-system-x86", "xfsprogs", "util-linux", "mount", "iproute2", "nftables"];

/// Installs the packages that are missing.
pub(crate) fn install_packages(lists: &[&[&str]]) -> Result<()> {
    let missing: Vec<&str> =
        lists.iter().flat_map(|list| *list).copied().filter(|name| !is_installed(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let name = format!("install Debian packages: {}", missing.join(" "));
    let remedy = "run it as root, on Debian 12, with working apt sources";
    step(&name, remedy, || {
        let apt = || {
            let mut command = Command::new("apt-get");
            command.env("DEBIAN_FRONTEND", "noninteractive").args(["-qq", "-y"]).stdout(Stdio::null());
            command
        };
        run(apt().arg("update"))?;
        run(apt().args(["install", "--no-install-recommends"]).args(&missing))
    })
}

fn is_installed(package: &str) -> bool {
    let query = Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", package]).output();
    query.is_ok_and(|output| output.stdout == b"installed")
}

/// Builds all programs but the benchmarks; those for VMs too.
pub(crate) fn programs() -> Result<()> {
    workspace(&["--exclude", "rigbox-bench"])
}

/// Builds all programs.
pub(crate) fn everything() -> Result<()> {
    workspace(&[])
}

fn workspace(but: &[&str]) -> Result<()> {
    let arguments = [&["build", "--release", "--workspace", "--bins", "--quiet"], but].concat();
    step("build the programs", "read the compiler's message above", || static_programs::build(&arguments))
}

/// Builds the benchmarks alone.
pub(crate) fn bench() -> Result<()> {
    let arguments = ["build", "--release", "--package", "rigbox-bench", "--quiet"];
    step("build the benchmarks", "read the compiler's message above", || run(cargo().args(arguments)))
}
