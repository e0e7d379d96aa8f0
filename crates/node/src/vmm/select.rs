//! Selection of the VMM driver: which monitor this host runs, with which accelerator, and why.

use super::firecracker::Firecracker;
use super::firecracker::version::Version;
use super::kind::VmmKind;
use super::qemu::{Accelerator, Qemu};
use super::{Vmm, files, probe};
use crate::config::Config;
use crate::error::Error;
use crate::storage::images::LocalImage;

/// The driver that was selected for this host.
pub(crate) struct Driver {
    pub(crate) vmm: Box<dyn Vmm>,
    pub(crate) kind: VmmKind,
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
///
/// # Errors
/// Fails with a Firecracker that may run no VMs: what the operator has chosen is not replaced by something else.
pub(crate) fn open(config: &Config, image: Option<&LocalImage>) -> Result<Driver, Error> {
    let dir = config.state_dir.join("vmm");
    std::fs::create_dir_all(&dir).map_err(Error::at("create", &dir))?;
    let version = match &config.vmm.firecracker {
        Some(program) => {
            let refused = |reason| Error::Launch(format!("`node.firecracker`: {reason}"));
            Some((program, Version::of(program).map_err(refused)?))
        }
        None => None,
    };
    let verdict = probe::cached_verdict(config, image)?;
    let is_refused = verdict.accelerator == Accelerator::Tcg && !config.vmm.allow_emulation;
    let (kind, accelerator) = (verdict.vmm, verdict.accelerator.name());
    if let (VmmKind::Firecracker, Some((program, version))) = (kind, version) {
        let root = files::install_firecracker(program, &dir)?;
        let vmm = Box::new(Firecracker::new(program, root));
        let reason = format!("{} {version}", verdict.reason);
        return Ok(Driver { vmm, kind, name: "firecracker", accelerator, reason, is_refused });
    }
    let root = files::install_qemu(&config.vmm.qemu, &dir)?;
    let vmm = Box::new(Qemu::new(verdict.accelerator, &config.vmm, files::firmware()?, root));
    Ok(Driver { vmm, kind, name: "qemu", accelerator, reason: verdict.reason, is_refused })
}
