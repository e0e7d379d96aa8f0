//! Builds the programs, and installs missing Debian packages.

use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::static_programs;
use crate::steps::step;

/// Debian packages that Rigbox needs at run time.
pub(crate) const RUN_PACKAGES: &[&str] =
    &["qemu-system-x86", "xfsprogs", "util-linux", "mount", "iproute2", "nftables"];

/// Runs a command to its end, with its output on the terminal.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {:?}", command.get_program()))?;
    anyhow::ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

/// Returns a command for the cargo that runs this program.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

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

/// Builds all programs, those for VMs included.
pub(crate) fn everything() -> Result<()> {
    step("build the programs", "read the compiler's message above", || {
        static_programs::build(&["build", "--release", "--workspace", "--bins", "--quiet"])
    })
}

/// Builds the benchmarks alone.
pub(crate) fn bench() -> Result<()> {
    let arguments = ["build", "--release", "--package", "rigbox-bench", "--quiet"];
    step("build the benchmarks", "read the compiler's message above", || run(cargo().args(arguments)))
}
