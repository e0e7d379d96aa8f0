//! What a node does when it starts: takes over what is on record, and removes what nobody owns.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rigbox_core::ids::WorkspaceId;

use crate::cgroup::Cgroups;
use crate::config::Config;
use crate::error::Error;
use crate::journal::Journal;
use crate::node::Node;
use crate::service::Service;
use crate::workspace::Workspace;

/// Compares record and kernel and starts the workspaces' tasks.
pub(crate) async fn recover(node: &Arc<Node>, service: &Service) -> Result<(), Error> {
    let records = node.journal.load()?;
    let known: std::collections::BTreeSet<WorkspaceId> = records.iter().map(|(id, _)| id.clone()).collect();
    for name in leftovers(&node.config, &node.cgroups)? {
        match name.parse::<WorkspaceId>() {
            Ok(id) if known.contains(&id) => {}
            Ok(id) => {
                tracing::warn!(workspace = %id, "removing what is left of a workspace that nobody owns");
                node.tear_down(&id)?;
            }
            Err(_) => tracing::warn!(name, "this is not of a workspace and is left alone"),
        }
    }
    node.disks.retain(&|id| known.contains(id))?;
    for (id, record) in records {
        let slot = record.slot;
        let recovering = {
            let (node, id) = (Arc::clone(node), id.clone());
            tokio::task::spawn_blocking(move || Workspace::recover(node, id, record))
        };
        let workspace = recovering.await.map_err(Error::system("taking a workspace over"))??;
        service.adopt(id, slot, workspace);
    }
    Ok(())
}

/// Names of workspaces that the kernel or the run folder has something of.
fn leftovers(config: &Config, cgroups: &Cgroups) -> Result<Vec<String>, Error> {
    let mut names = cgroups.list();
    for dir in [config.vms_dir(), config.netns_dir()] {
        for entry in fs::read_dir(&dir).map_err(Error::at("cannot be listed", &dir))? {
            let entry = entry.map_err(Error::at("cannot be listed", &dir))?;
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// Ends every VM of an installation whose node does not run, and unmounts its volume. With `everything`, disks and journal go too;
/// otherwise the workspaces find their disks again.
///
/// # Errors
/// Something does not go.
pub fn purge(config: &Config, everything: bool) -> Result<(), Error> {
    let cgroups = Cgroups::find(&config.cgroup())?;
    for dir in [config.vms_dir(), config.netns_dir()] {
        fs::create_dir_all(&dir).map_err(Error::at("cannot be made", &dir))?;
    }
    for name in leftovers(config, &cgroups)? {
        cgroups.remove(&name)?;
        crate::net::remove(&config.netns_dir().join(&name))?;
        remove_dir(&config.vms_dir().join(&name))?;
    }
    cgroups.remove_parents();
    let volume = config.run_dir.join("volume");
    if volume.exists() && crate::volume::is_mounted(&volume)? {
        crate::command::run("umount", &[&volume.display().to_string()])?;
    }
    if everything {
        remove_dir(&config.state_dir)?;
    } else {
        // Their VMs are gone by request, not by accident.
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

fn remove_dir(dir: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::at("cannot be removed", dir)(error))
        }
        _ => Ok(()),
    }
}
