//! What all workspaces of a node share, put together at start-up.

use std::path::PathBuf;
use std::sync::Arc;

use rigbox_core::ids::WorkspaceId;
use rigbox_proto::node::{Finding, finding::Level};

use crate::attend::Attendees;
use crate::bridge::Bridge;
use crate::cgroup::Cgroups;
use crate::config::Config;
use crate::dial::Doors;
use crate::disks::Disks;
use crate::error::Error;
use crate::images::Images;
use crate::journal::Journal;
use crate::net::uplink::{self, Uplink};
use crate::reports::Reports;
use crate::vmm::qemu::Qemu;
use crate::vmm::{Vmm, files, probe};
use crate::volume::Volume;

/// The parts of a node.
pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) journal: Journal,
    pub(crate) disks: Disks,
    pub(crate) images: Images,
    pub(crate) cgroups: Cgroups,
    pub(crate) vmm: Box<dyn Vmm>,
    pub(crate) accelerator: &'static str,
    pub(crate) reason: String,
    pub(crate) host_boot_id: String,
    pub(crate) attendees: Attendees,
    pub(crate) doors: Doors,
    pub(crate) bridge: Bridge,
    pub(crate) uplink: Option<Uplink>,
    pub(crate) reports: Reports,
}

impl Node {
    /// Opens everything; slow only when an image has to be copied or KVM has to be tried.
    pub(crate) fn open(config: Config) -> Result<Arc<Self>, Error> {
        let journal = Journal::open(config.journal_dir())?;
        for dir in [config.vms_dir(), config.netns_dir(), config.run_dir.join("jail")] {
            std::fs::create_dir_all(&dir).map_err(Error::at("cannot be made", &dir))?;
        }
        let volume = Volume::open(&config.state_dir, &config.run_dir)?;
        let disks = Disks::open(volume, config.disk_reserve)?;
        let images = Images::open(&config, &disks)?;
        let vmm_dir = config.state_dir.join("vmm");
        std::fs::create_dir_all(&vmm_dir).map_err(Error::at("cannot be made", &vmm_dir))?;
        let root = files::gather(&config.qemu, &vmm_dir)?;
        let verdict = probe::remembered(&config, images.all().last());
        tracing::info!(accelerator = verdict.accelerator.name(), reason = verdict.reason, "VMM chosen: qemu");
        let vmm = Qemu::new(verdict.accelerator, config.qemu.clone(), files::firmware()?, root);
        Ok(Arc::new(Self {
            cgroups: Cgroups::find(&config.cgroup())?,
            journal,
            disks,
            images,
            vmm: Box::new(vmm),
            accelerator: verdict.accelerator.name(),
            reason: verdict.reason,
            host_boot_id: crate::process::host_boot_id().map_err(Error::system("the host's boot id"))?,
            attendees: Attendees::default(),
            doors: Doors::default(),
            bridge: Bridge::new(config.bridge_socket.clone()),
            uplink: uplink::open(&config)?,
            reports: Reports::default(),
            config,
        }))
    }

    /// This node's stable name.
    pub(crate) fn id(&self) -> String {
        format!("node-{}", self.config.installation)
    }

    /// The empty folder that a VMM's root is mounted on, in the jail only.
    pub(crate) fn jail_mount_point(&self) -> PathBuf {
        self.config.run_dir.join("jail")
    }

    /// The uid of a slot.
    pub(crate) fn vm_uid(&self, slot: u32) -> u32 {
        self.config.vm_uid_base + slot
    }

    /// The way out for the VM in `slot`.
    pub(crate) fn way_out(&self, slot: u32) -> Option<(&Uplink, u32)> {
        self.uplink.as_ref().map(|uplink| (uplink, slot))
    }

    /// For `doctor`.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut add = |level: Level, subject: &str, message: String, remedy: &str| {
            findings.push(Finding {
                level: level.into(),
                subject: subject.to_owned(),
                message,
                remedy: remedy.to_owned(),
            });
        };
        match self.accelerator {
            "kvm" => add(Level::Ok, "kvm", self.reason.clone(), ""),
            _ => add(
                Level::Warning,
                "kvm",
                self.reason.clone(),
                "use a machine with hardware virtualisation; workspaces work here too, only slower",
            ),
        }
        match self.images.all().last() {
            Some(image) => add(Level::Ok, "image", format!("newest image {}", image.version), ""),
            None => add(Level::Error, "image", "no image".into(), "cargo xtask image base"),
        }
        let (good, message, remedy) = crate::net::doctor::look(&self.config);
        add(if good { Level::Ok } else { Level::Warning }, "network", message, &remedy);
        match self.disks.space_mb() {
            Ok((total, reserved)) => add(
                if total > reserved + 4096 { Level::Ok } else { Level::Warning },
                "disk",
                format!("{reserved} of {total} MiB are set aside for disks and images"),
                if total > reserved + 4096 {
                    ""
                } else {
                    "delete workspaces or give the state folder more room"
                },
            ),
            Err(error) => add(Level::Error, "disk", error.to_string(), "look at the state folder"),
        }
        findings
    }

    /// Removes everything of a boot that may be there: processes, control groups, namespace, sockets. Nothing of it need exist.
    pub(crate) fn tear_down(&self, workspace: &WorkspaceId) -> Result<(), Error> {
        self.doors.close(workspace);
        self.cgroups.remove(workspace.as_str())?;
        crate::net::remove(&self.config.netns(workspace))?;
        let dir = self.config.vm_dir(workspace);
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::at("cannot be removed", &dir)(error))
            }
            _ => Ok(()),
        }
    }
}
