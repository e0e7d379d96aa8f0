//! Selection of the VMM driver: which monitor this host runs, with which accelerator, and why.

use super::Vmm;
use super::qemu::{Qemu, files, probe};
use crate::config::Config;
use crate::error::Error;
use crate::storage::images::LocalImage;

/// The driver that was selected for this host.
pub(crate) struct Driver {
    pub(crate) vmm: Box<dyn Vmm>,
    pub(crate) name: &'static str,
    pub(crate) accelerator: &'static str,
    /// Human-readable reason for the selection.
    pub(crate) reason: String,
}

/// Selects a driver and prepares its files. `image` is booted where KVM has to be probed.
pub(crate) fn open(config: &Config, image: Option<&LocalImage>) -> Result<Driver, Error> {
    let dir = config.state_dir.join("vmm");
    std::fs::create_dir_all(&dir).map_err(Error::at("create", &dir))?;
    let program = &config.vmm.qemu;
    let root = files::install(program, &dir)?;
    let verdict = probe::cached_verdict(config, image);
    let qemu = Qemu::new(verdict.accelerator, program.clone(), files::firmware()?, root);
    Ok(Driver {
        vmm: Box::new(qemu),
        name: "qemu",
        accelerator: verdict.accelerator.name(),
        reason: verdict.reason,
    })
}
