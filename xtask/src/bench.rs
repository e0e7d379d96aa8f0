//! `cargo xtask bench NAME`: builds what the benchmark needs and runs it.

use std::process::Command;

use anyhow::Result;

use crate::paths::program;
use crate::{build, command, image, openssh_server, python_packages};

pub(crate) fn bench(name: &str, json: bool, rounds: Option<u32>, more: &[String]) -> Result<()> {
    let mut command = match name {
        // The suite's, which has the host for it.
        "neighbor" | "neighbour" => {
            prepare_vms(build::programs)?;
            let mut command = Command::new(program("rigbox-tests"));
            command.args(["bench", "neighbor"]);
            command
        }
        _ => {
            match name {
                "edge" => build::install_packages(&[&["nginx-light", "wrk"]])?,
                "ai" => build::install_packages(&[&["nginx-light"], python_packages::PACKAGES])?,
                _ => {}
            }
            // Benchmarks without VMs need no image.
            if matches!(name, "api" | "edge" | "ssh" | "ai") {
                build::bench()?;
            } else {
                prepare_vms(build::everything)?;
            }
            let mut command = Command::new(program("rigbox-bench"));
            command.arg(name);
            match name {
                "ssh" => drop(command.env("RIGBOX_SSHD", openssh_server::unpack()?)),
                "ai" => drop(command.env("RIGBOX_LITELLM", python_packages::LITELLM.install()?)),
                _ => {}
            }
            command
        }
    };
    if json {
        command.arg("--json");
    }
    if let Some(rounds) = rounds {
        command.args(["--rounds", &rounds.to_string()]);
    }
    command::run(command.args(more))
}

/// Builds what VMs are made of.
fn prepare_vms(programs: fn() -> Result<()>) -> Result<()> {
    build::install_packages(&[build::RUN_PACKAGES, &rigbox_image::host_packages()])?;
    programs()?;
    image::build("base").map(drop)
}
