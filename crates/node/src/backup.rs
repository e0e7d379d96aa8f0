//! The node's part of a backup, for the operator's commands: journal, id of the database, and on request disks and the images that they
//! boot from. A backup is taken beside a running node or without one, a restore only without.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;

use rigbox_core::ids::{DatabaseId, WorkspaceId};
use rigbox_core::lifecycle::Desired;

use crate::config::Config;
use crate::durable;
use crate::error::Error;
use crate::journal::Journal;
use crate::record::{Phase, Record};
use crate::storage::disks::{self, Disks};
use crate::storage::volume::Volume;
use crate::storage::{images, owner, sparse};

const JOURNAL: &str = "journal";
const DISKS: &str = "disks";
/// Boot id of no host: a VM in a restored record counts as one that ended with its host.
const NO_HOST_BOOT: &str = "restored";

/// Numbers of what was copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copied {
    /// Workspaces in the journal.
    pub workspaces: usize,
    /// Disks.
    pub disks: usize,
}

/// Copies the node's part to the new folder `target`. `is_running` tells whether there may be a node.
///
/// # Errors
/// Fails if something cannot be copied, or if the clone of a disk does not fit on the volume.
pub fn back_up(config: &Config, target: &Path, with_disks: bool, is_running: bool) -> Result<Copied, Error> {
    let journal = target.join(JOURNAL);
    fs::create_dir_all(&journal).map_err(Error::at("create", &journal))?;
    let records = match config.journal_dir() {
        dir if dir.exists() => Journal::open(dir)?.snapshot()?,
        // The node has never run.
        _ => Vec::new(),
    };
    let copy = Journal::open(journal)?;
    for (_, record) in &records {
        copy.save(record)?;
    }
    let id = config.state_dir.join(owner::FILE);
    if id.exists() {
        copy_file(&id, &target.join(owner::FILE))?;
    }
    let mut copied = Copied { workspaces: records.len(), disks: 0 };
    if with_disks && Volume::exists(&config.state_dir) {
        copied.disks = with_volume(config, is_running, |disks| copy_disks(disks, &records, target))?;
    }
    Ok(copied)
}

/// Runs `work` on the volume, which is mounted for as long if no node has done that.
fn with_volume<T>(
    config: &Config,
    is_running: bool,
    work: impl FnOnce(&Disks) -> Result<T, Error>,
) -> Result<T, Error> {
    let is_unmounted = Volume::is_unmounted(&config.state_dir, &config.run_dir)?;
    if is_unmounted && is_running {
        return Err(Error::Retry("the node has not mounted its volume yet".to_owned()));
    }
    let disks = open_disks(config)?;
    // What the node's VMs overwrite beside a copy takes space that the node does not know of.
    let kept = disks.volume().keep_capacity()?;
    let done = work(&disks);
    drop(kept);
    if is_unmounted {
        disks.into_volume().unmount()?;
    }
    done
}

/// Opens the volume, with the space of what is on it reserved as the node does.
fn open_disks(config: &Config) -> Result<Disks, Error> {
    let disks = Disks::open(Volume::open(&config.state_dir, &config.run_dir)?, config.disk_reserve)?;
    for (id, size_mb) in disks.list()? {
        disks.adopt(&id, size_mb);
    }
    let folder = images::folder(disks.volume().root());
    if folder.exists() {
        for image in images::load_all(&folder)? {
            images::reserve(&image, &disks)?;
        }
    }
    Ok(disks)
}

fn copy_disks(disks: &Disks, records: &[(WorkspaceId, Record)], target: &Path) -> Result<usize, Error> {
    let folder = target.join(DISKS);
    fs::create_dir(&folder).map_err(Error::at("create", &folder))?;
    let mut copied = 0;
    let mut versions = BTreeSet::new();
    let has_disk =
        |record: &Record| record.phase == Phase::Provisioned && record.target.state != Desired::Deleted;
    for (id, record) in records.iter().filter(|(_, record)| has_disk(record)) {
        // A workspace that was deleted meanwhile has none.
        let Some(clone) = disks.clone_for_backup(id)? else { continue };
        let path = folder.join(disks::file_name(id));
        let file = File::options().read(true).write(true).create_new(true).open(&path);
        file.and_then(|file| sparse::clone_or_copy(&clone, &file))
            .map_err(Error::at("copy a disk to", &path))?;
        copied += 1;
        versions.insert(record.image_version.as_str());
    }
    // The node imports only the newest version of an image, and a disk boots the kernel of its own.
    let (from, to) = (images::folder(disks.volume().root()), images::folder(target));
    fs::create_dir(&to).map_err(Error::at("create", &to))?;
    for image in images::load_all(&from)?.iter().filter(|image| versions.contains(image.version.as_str())) {
        images::import(image, &to)?;
    }
    durable::sync_dir(&folder).map_err(Error::at("sync", &folder))?;
    Ok(copied)
}

/// Returns whether the node has neither workspaces nor disks, so that a restore may give it those of a backup.
///
/// # Errors
/// Fails if the journal or the volume cannot be read.
pub fn is_empty(config: &Config) -> Result<bool, Error> {
    let journal = config.journal_dir();
    if journal.exists() && !Journal::open(journal)?.snapshot()?.is_empty() {
        return Ok(false);
    }
    if !Volume::exists(&config.state_dir) {
        return Ok(true);
    }
    with_volume(config, false, |disks| Ok(disks.list()?.is_empty()))
}

/// Returns the database that the node works for, if there is one yet.
///
/// # Errors
/// Fails if the file with its id cannot be read.
pub fn owner(config: &Config) -> Result<Option<DatabaseId>, Error> {
    owner::read(&config.state_dir.join(owner::FILE))
}

/// Copies a backup's part, in the folder `source`, to a node that is empty or was being restored from the same backup. The journal comes
/// last, so no record is without its disk.
///
/// # Errors
/// Fails if something cannot be copied, or if the space for a disk cannot be reserved.
pub fn restore(config: &Config, source: &Path) -> Result<Copied, Error> {
    let mut copied = Copied::default();
    let id = source.join(owner::FILE);
    if source.join(DISKS).exists() {
        let restored = with_volume(config, false, |disks| {
            let restored = restore_disks(disks, source)?;
            // An empty node may have worked for another database.
            if id.exists() {
                copy_file(&id, &disks.volume().root().join(owner::FILE))?;
            }
            Ok(restored)
        });
        copied.disks = restored?;
    }
    let journal = Journal::open(config.journal_dir())?;
    for (_, mut record) in Journal::open(source.join(JOURNAL))?.snapshot()? {
        if let Some(boot) = record.boot.as_mut() {
            NO_HOST_BOOT.clone_into(&mut boot.host_boot_id);
        }
        journal.save(&record)?;
        copied.workspaces += 1;
    }
    if id.exists() {
        copy_file(&id, &config.state_dir.join(owner::FILE))?;
    }
    Ok(copied)
}

fn restore_disks(disks: &Disks, source: &Path) -> Result<usize, Error> {
    let found = list_disks(&source.join(DISKS))?;
    // All of them, before the first is copied.
    for (id, size_mb) in &found {
        disks.reserve(id, *size_mb)?;
    }
    let (from, to) = (images::folder(source), images::folder(disks.volume().root()));
    fs::create_dir_all(&to).map_err(Error::at("create", &to))?;
    for image in images::load_all(&from)? {
        images::import(&image, &to)?;
        images::reserve(&image, disks)?;
    }
    for (id, _) in &found {
        let path = disks.path(id);
        if path.exists() {
            // Complete: an interrupted restore has copied it.
            continue;
        }
        let from = source.join(DISKS).join(disks::file_name(id));
        let new = path.with_added_extension("new");
        let copy = || {
            let to = File::options().read(true).write(true).create(true).truncate(true).open(&new)?;
            rustix::fs::fchmod(&to, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
            sparse::clone_or_copy(&File::open(&from)?, &to)?;
            fs::rename(&new, &path)?;
            path.parent().map_or(Ok(()), durable::sync_dir)
        };
        copy().map_err(Error::at("copy a disk to", &path))?;
    }
    Ok(found.len())
}

fn list_disks(folder: &Path) -> Result<Vec<(WorkspaceId, u32)>, Error> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::at("list", folder))? {
        let path = entry.map_err(Error::at("list", folder))?.path();
        let not_a_disk = || Error::at("restore", &path)(std::io::Error::other("it is no workspace's disk"));
        found.push(disks::identify(&path)?.ok_or_else(not_a_disk)?);
    }
    Ok(found)
}

fn copy_file(from: &Path, to: &Path) -> Result<(), Error> {
    let content = fs::read(from).map_err(Error::at("read", from))?;
    durable::replace(to, &content).map_err(Error::at("write", to))
}

#[cfg(test)]
mod tests;
