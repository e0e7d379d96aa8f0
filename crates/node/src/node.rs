//! State that all workspaces of a node share, opened at start-up.

mod host;
mod launch;
mod save;

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rigbox_core::ids::WorkspaceId;
use rigbox_proto::node::{Finding, finding::Level};
use rigbox_sys::kill_points::KillPoints;

use crate::boot_queue::BootQueue;
use crate::config::Config;
use crate::error::Error;
use crate::journal::Journal;
use crate::memory::{self, MemoryPipe};
use crate::net::uplink::{self, Uplink};
use crate::refusals::Refusals;
use crate::reports::Reports;
use crate::sandbox::cgroup::Cgroups;
use crate::sockets::bridge_listener::BridgeListener;
use crate::sockets::dial::DialTargets;
use crate::sockets::guestio::AttachedVms;
use crate::storage::disks::Disks;
use crate::storage::images::Images;
use crate::storage::owner::Owner;
use crate::storage::volume::Volume;
use crate::vmm::select::{self, ALLOW_EMULATION, Driver};

/// Free space below which `doctor` warns, MiB.
const LOW_DISK_SPACE_MB: u64 = 4096;

/// Components of a node.
pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) journal: Journal,
    pub(crate) owner: Owner,
    pub(crate) disks: Disks,
    pub(crate) images: Images,
    pub(crate) memory_images: memory::Images,
    /// Memory images that threads are writing, each of a boot.
    pub(crate) memory_pipes: Mutex<HashMap<WorkspaceId, (String, MemoryPipe)>>,
    pub(crate) cgroups: Cgroups,
    pub(crate) driver: Driver,
    pub(crate) host_boot_id: String,
    pub(crate) attached_vms: AttachedVms,
    pub(crate) dial_targets: DialTargets,
    pub(crate) bridge: BridgeListener,
    pub(crate) uplink: Option<Uplink>,
    pub(crate) reports: Reports,
    pub(crate) refusals: Refusals,
    pub(crate) boot_queue: BootQueue,
    pub(crate) kill_points: KillPoints,
}

impl Node {
    /// Opens all components. Slow only if an image has to be copied or KVM has to be probed.
    pub(crate) fn open(config: Config) -> Result<Arc<Self>, Error> {
        let journal = Journal::open(config.journal_dir())?;
        for dir in [config.vms_dir(), config.netns_dir(), config.run_dir.join("jail")] {
            std::fs::create_dir_all(&dir).map_err(Error::at("create", &dir))?;
        }
        crate::net::roles::confine(&config)?;
        let volume = Volume::open(&config.state_dir, &config.run_dir)?;
        volume.recover()?;
        let owner = Owner::open(&config.state_dir, volume.root())?;
        let disks = Disks::open(volume, config.disk_reserve)?;
        if let Err(reason) = disks.quotas() {
            tracing::info!(%reason, "disks have no project quotas");
        }
        let images = Images::open(&config, &disks)?;
        let memory_images = memory::Images::open(disks.volume().root())?;
        let driver = select::open(&config, images.all().last())?;
        let Driver { name, accelerator, reason, .. } = &driver;
        tracing::info!(driver = name, accelerator, reason, "selected VMM");
        Ok(Arc::new(Self {
            cgroups: Cgroups::find(&config.cgroup(), &config.cgroup_record())?
                .limiting_disks_in(disks.volume().root()),
            journal,
            owner,
            disks,
            images,
            memory_images,
            memory_pipes: Mutex::default(),
            driver,
            host_boot_id: crate::sandbox::process::host_boot_id()
                .map_err(Error::system("read the host's boot id"))?,
            attached_vms: AttachedVms::default(),
            dial_targets: DialTargets::default(),
            bridge: BridgeListener::new(config.bridge_socket.clone()),
            uplink: uplink::open(&config)?,
            reports: Reports::new(random_session()?),
            refusals: Refusals::default(),
            boot_queue: BootQueue::new(config.max_concurrent_boots),
            kill_points: KillPoints::open(&config.run_dir),
            config,
        }))
    }

    /// Returns the node's stable id.
    pub(crate) fn id(&self) -> String {
        format!("node-{}", self.config.installation)
    }

    /// Returns the empty folder on which a VMM's root is mounted, inside the jail only.
    pub(crate) fn jail_mount_point(&self) -> PathBuf {
        self.config.run_dir.join("jail")
    }

    /// Returns the uid of the VM in `slot`.
    pub(crate) fn vm_uid(&self, slot: u32) -> u32 {
        self.config.vm_uid_base + slot
    }

    /// Returns the uplink for the VM in `slot`, if the node has one.
    pub(crate) fn uplink_for(&self, slot: u32) -> Option<(&Uplink, u32)> {
        self.uplink.as_ref().map(|uplink| (uplink, slot))
    }

    /// Returns the node's findings for `doctor`.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        let Driver { accelerator, reason, is_refused, .. } = &self.driver;
        let kvm = kvm_finding(accelerator, reason, *is_refused);
        vec![kvm, self.image_finding(), self.network_finding(), self.disk_finding(), self.quota_finding()]
    }

    fn quota_finding(&self) -> Finding {
        let message = match self.disks.quotas() {
            Ok(_) => "each disk has a project quota".to_owned(),
            Err(reason) => format!("disks have no project quotas: {reason}"),
        };
        finding(Level::Ok, "disk_quota", message, "")
    }

    fn image_finding(&self) -> Finding {
        match self.images.all().last() {
            Some(image) => finding(Level::Ok, "image", format!("newest image {}", image.version), ""),
            None => finding(Level::Error, "image", "no image".into(), "cargo xtask image base"),
        }
    }

    fn network_finding(&self) -> Finding {
        let diagnosis = crate::net::doctor::diagnose(&self.config);
        let level = if diagnosis.is_ok { Level::Ok } else { Level::Warning };
        finding(level, "network", diagnosis.message, &diagnosis.remedy)
    }

    fn disk_finding(&self) -> Finding {
        match self.disks.space_mb() {
            Ok((total, reserved)) => {
                let message = format!("{reserved} of {total} MiB are reserved for disks and images");
                if total > reserved + LOW_DISK_SPACE_MB {
                    return finding(Level::Ok, "disk", message, "");
                }
                let remedy = "Delete workspaces, or enlarge the file system of the state folder.";
                finding(Level::Warning, "disk", message, remedy)
            }
            Err(error) => finding(Level::Error, "disk", error.to_string(), "Check the state folder."),
        }
    }

    /// Removes all resources that a boot may have: processes, control groups, namespace, sockets. None of them has to exist.
    pub(crate) fn remove_boot_resources(&self, workspace: &WorkspaceId) -> Result<(), Error> {
        self.dial_targets.remove(workspace);
        self.cgroups.remove(workspace.as_str())?;
        crate::net::remove(&self.config.netns(workspace), self.uplink.as_ref())?;
        crate::sandbox::run_folder::remove_vm_dir(&self.config.vm_dir(workspace))
    }
}

/// Returns a number for the reports of this process.
fn random_session() -> Result<NonZeroU64, Error> {
    let random = getrandom::u64().map_err(|error| Error::System {
        action: "get random bytes from the kernel",
        source: std::io::Error::other(error),
    })?;
    Ok(NonZeroU64::new(random).unwrap_or(NonZeroU64::MIN))
}

/// Returns the finding about how VMs run.
fn kvm_finding(accelerator: &str, reason: &str, is_refused: bool) -> Finding {
    let found = |level, remedy: &str| finding(level, "kvm", reason.to_owned(), remedy);
    if accelerator == "kvm" {
        found(Level::Ok, "")
    } else if is_refused {
        found(Level::Error, &format!("{ALLOW_EMULATION}."))
    } else {
        let remedy = "Use a machine with KVM before you run code of others. Here it is not isolated.";
        found(Level::Warning, remedy)
    }
}

fn finding(level: Level, subject: &str, message: String, remedy: &str) -> Finding {
    Finding { level: level.into(), subject: subject.to_owned(), message, remedy: remedy.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emulation_is_a_finding_that_says_it_does_not_isolate() {
        let found = |accelerator, is_refused| {
            let finding = kvm_finding(accelerator, "why", is_refused);
            (finding.level(), finding.remedy)
        };
        assert_eq!(found("kvm", false), (Level::Ok, String::new()));
        let (level, remedy) = found("tcg", false);
        assert!(level == Level::Warning && remedy.contains("not isolated"), "{remedy}");
        let (level, remedy) = found("tcg", true);
        assert!(level == Level::Error && remedy.contains("`node.allow_emulation = true`"), "{remedy}");
    }
}
