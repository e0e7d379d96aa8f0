//! `cargo xtask bench NAME`: builds what the benchmark needs and runs it.

use std::process::Command;

use anyhow::Result;

use crate::paths::program;
use crate::{build, command, image};

pub(crate) fn bench(name: &str, json: bool, rounds: Option<u32>) -> Result<()> {
    if name == "edge" {
        build::install_packages(&[&["nginx-light", "wrk"]])?;
    }
    // Benchmarks without VMs need no image.
    if matches!(name, "api" | "edge") {
        build::bench()?;
    } else {
        build::install_packages(&[build::RUN_PACKAGES, &rigbox_image::host_packages()])?;
        build::everything()?;
        image::build("base")?;
    }
    let mut command = Command::new(program("rigbox-bench"));
    command.arg(name);
    if json {
        command.arg("--json");
    }
    if let Some(rounds) = rounds {
        command.args(["--rounds", &rounds.to_string()]);
    }
    command::run(&mut command)
}
