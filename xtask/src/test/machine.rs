//! Tests in an emulated machine (`tests/machine`): systemd as PID 1, control groups of version 2, KVM, reboots.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::Result;
use rigbox_image::default_cache_dir;

use super::results::Results;
use super::{REMEDY, watch};
use crate::paths::{checkout, program};
use crate::steps::step;
use crate::{build, image};

/// Line of a run without these tests.
pub(super) const SKIPPED: &str = "skipped: emulated machine: run cargo xtask test --machine";
/// Recipe of the machine.
const RECIPE: &str = "tests/machine/image";
/// Folder in the cache of images. Nodes import what is beside it, and must not find the machine.
const CACHE: &str = "machine";
/// Folder for what the machine prints.
const LOG: &str = "target/machine";

/// Builds everything and runs the tests, in QEMU or in `firecracker`; fails if one failed.
pub(super) fn test(firecracker: Option<&Path>, soak: bool) -> Result<()> {
    build::install_packages(&[build::RUN_PACKAGES, &rigbox_image::host_packages()])?;
    build::programs()?;
    let image = image::build("base")?;
    let cache = default_cache_dir()?.join(CACHE);
    let machine = image::build_recipe(&checkout().join(RECIPE), &cache)?;
    let mut command = Command::new(program("rigbox-machine"));
    command.arg("outside").arg("--programs").arg(program("")).arg("--machine").arg(machine);
    command.arg("--image").arg(image).arg("--log").arg(checkout().join(LOG));
    if let Some(program) = firecracker {
        command.arg("--firecracker").arg(program);
    }
    if soak {
        command.arg("--soak");
    }
    let (reader, writer) = std::io::pipe()?;
    command.stdout(writer);
    let (mut results, mut last) = (Results::default(), Instant::now());
    let passed = step("tests in the emulated machine", REMEDY, || {
        watch(command, reader, |line| {
            results.add_end_to_end(line, last.elapsed());
            last = Instant::now();
        })
    })?;
    print!("{results}");
    anyhow::ensure!(passed && results.failed() == 0, "failed: tests in the emulated machine");
    Ok(())
}
