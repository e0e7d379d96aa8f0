//! Recovery at start-up: takes over what is in the journal, keeps disks that are not, and removes what a boot without a record has left.
//! Also the purge of an installation.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

use rigbox_core::ids::WorkspaceId;

use crate::config::Config;
use crate::error::Error;
use crate::journal::Journal;
use crate::node::Node;
use crate::record::{Phase, Record};
use crate::sandbox::cgroup::Cgroups;
use crate::sandbox::run_folder::{remove_dir, remove_vm_dir};
use crate::storage::volume;
use crate::workspaces::Workspaces;

/// Compares the journal with the kernel and starts the workspaces' tasks. Anything slow, or that may not succeed at once, is left to
/// these tasks and to a thread, so that one stuck VM delays no other.
pub(crate) fn recover(node: &Arc<Node>, workspaces: &Workspaces<Node>) -> Result<(), Error> {
    let mut records = node.journal.load()?;
    let unrecorded = records_of_disks(node, &records)?;
    records.extend(unrecorded);
    let recorded: BTreeSet<WorkspaceId> = records.iter().map(|(id, _)| id.clone()).collect();
    // Listed before a new workspace can appear.
    let mut orphans = Vec::new();
    for name in existing_names(&node.config, &node.cgroups)? {
        match name.parse::<WorkspaceId>() {
            Ok(id) if recorded.contains(&id) => {}
            Ok(id) => orphans.push(id),
            Err(_) => tracing::warn!(name, "ignoring a resource that belongs to no workspace"),
        }
    }
    for (id, record) in records {
        workspaces.adopt(id, record);
    }
    let node = Arc::clone(node);
    tokio::task::spawn_blocking(move || {
        for id in orphans {
            tracing::warn!(workspace = %id, "removing resources of a workspace that is not in the journal");
            if let Err(error) = node.remove_boot_resources(&id) {
                tracing::error!(workspace = %id, %error, "failed to remove them; retrying at the next start");
            }
        }
    });
    Ok(())
}

/// Writes a record for each disk that has none, after the journal was lost or disks of an earlier file system came back. Control decides
/// whose they are. The newest image takes the place of the one that each disk was cloned from, whose version only the journal knew.
fn records_of_disks(
    node: &Node,
    records: &[(WorkspaceId, Record)],
) -> Result<Vec<(WorkspaceId, Record)>, Error> {
    let recorded: BTreeSet<&WorkspaceId> = records.iter().map(|(id, _)| id).collect();
    let mut used_slots: BTreeSet<u32> = records.iter().map(|(_, record)| record.slot).collect();
    let image = node.images.all().max_by_key(|image| image.built_at);
    let mut added = Vec::new();
    for (id, disk_size_mb) in node.disks.list()? {
        if recorded.contains(&id) {
            continue;
        }
        let (Some(image), Some(slot)) = (image, node.config.free_slot(&used_slots)) else {
            tracing::error!(workspace = %id, "keeping a disk that the journal does not have: no image or no uid for it");
            continue;
        };
        // First of all: a VM that nobody knows must not have the disk beside one that is started.
        if let Err(error) = node.remove_boot_resources(&id) {
            tracing::error!(workspace = %id, %error, "keeping a disk that the journal does not have: failed to end its VM");
            continue;
        }
        tracing::warn!(workspace = %id, disk_size_mb, "keeping a disk that the journal does not have");
        used_slots.insert(slot);
        let record = Record {
            image_version: image.version.clone(),
            disk_size_mb,
            phase: Phase::Provisioned,
            ..Record::new(&id, slot)
        };
        node.journal.save(&record)?;
        added.push((id, record));
    }
    Ok(added)
}

/// Returns the names of workspaces that have resources in the kernel or in the run folder.
fn existing_names(config: &Config, cgroups: &Cgroups) -> Result<Vec<String>, Error> {
    let mut names = cgroups.list();
    for dir in [config.vms_dir(), config.netns_dir()] {
        for entry in fs::read_dir(&dir).map_err(Error::at("list", &dir))? {
            let entry = entry.map_err(Error::at("list", &dir))?;
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// Kills all VMs of an installation whose node is not running, and unmounts its volume. With `everything`, disks and journal are removed
/// as well; otherwise the workspaces keep their disks.
///
/// # Errors
/// Fails if a resource cannot be removed.
pub fn purge(config: &Config, everything: bool) -> Result<(), Error> {
    for dir in [config.vms_dir(), config.netns_dir()] {
        fs::create_dir_all(&dir).map_err(Error::at("create", &dir))?;
    }
    let cgroups = Cgroups::find(&config.cgroup(), &config.cgroup_record())?;
    for name in existing_names(config, &cgroups)? {
        cgroups.remove(&name)?;
        crate::net::remove(&config.netns_dir().join(&name), None)?;
        remove_vm_dir(&config.vms_dir().join(&name))?;
    }
    cgroups.remove_parents();
    crate::net::uplink::close(config)?;
    crate::net::roles::release(config)?;
    let mount_point = config.run_dir.join("volume");
    if mount_point.exists() && volume::is_mounted(&mount_point)? {
        crate::command::run("umount", &[&mount_point.display().to_string()])?;
    }
    if everything {
        remove_dir(&config.state_dir)?;
    } else {
        // These VMs ended by request, not by accident.
        let journal = Journal::open(config.journal_dir())?;
        for (_, mut record) in journal.load()? {
            if let Some(boot) = record.boot.as_mut() {
                boot.stopping = true;
                journal.save(&record)?;
            }
        }
    }
    remove_dir(&config.run_dir)
}
