//! Selection of the VMM driver: which monitor this host runs, with which accelerator, and why.

use super::Vmm;
use super::qemu::{Accelerator, Qemu, files, probe};
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
    /// True if the driver emulates the CPU and the configuration does not allow that.
    pub(crate) is_refused: bool,
}

impl Driver {
    /// Fails if no VM may be started by this driver.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if !self.is_refused {
            return Ok(());
        }
        let message = format!("this machine cannot isolate workspaces: {}. {ALLOW_EMULATION}", self.reason);
        Err(Error::Refused("emulation_not_allowed", message))
    }
}

/// Remedy for a machine without KVM.
pub(crate) const ALLOW_EMULATION: &str = "Use a machine with KVM; only to try Rigbox out with code that you trust, set \
                                          `node.allow_emulation = true`";

/// Selects a driver and prepares its files. `image` is booted where KVM has to be probed.
pub(crate) fn open(config: &Config, image: Option<&LocalImage>) -> Result<Driver, Error> {
    let dir = config.state_dir.join("vmm");
    std::fs::create_dir_all(&dir).map_err(Error::at("create", &dir))?;
    let program = &config.vmm.qemu;
    let root = files::install(program, &dir)?;
    let verdict = probe::cached_verdict(config, image)?;
    let qemu = Qemu::new(verdict.accelerator, &config.vmm, files::firmware()?, root);
    Ok(Driver {
        is_refused: verdict.accelerator == Accelerator::Tcg && !config.vmm.allow_emulation,
        vmm: Box::new(qemu),
        name: "qemu",
        accelerator: verdict.accelerator.name(),
        reason: verdict.reason,
    })
}
