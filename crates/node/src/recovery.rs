//! What a node does when it starts: takes over what is on record, and removes what nobody owns.

use std::collections::BTreeSet;
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

/// Compares record and kernel and starts the workspaces' tasks. What takes time (and may not succeed at once) is left to them and to a
/// thread, so that one VM that does not go keeps nobody waiting.
pub(crate) fn recover(node: &Arc<Node>, service: &Service) -> Result<(), Error> {
    let records = node.journal.load()?;
    let known: BTreeSet<WorkspaceId> = records.iter().map(|(id, _)| id.clone()).collect();
    node.disks.retain(&|id| known.contains(id))?;
    // Listed before there can be a new workspace.
    let mut unowned = Vec::new();
    for name in leftovers(&node.config, &node.cgroups)? {
        match name.parse::<WorkspaceId>() {
            Ok(id) if known.contains(&id) => {}
            Ok(id) => unowned.push(id),
            Err(_) => tracing::warn!(name, "this is not of a workspace and is left alone"),
        }
    }
    for (id, record) in records {
        let (slot, workspace) = (record.slot, Workspace::on_record(Arc::clone(node), id.clone(), record));
        service.adopt(id, slot, workspace);
    }
    let node = Arc::clone(node);
    tokio::task::spawn_blocking(move || {
        for id in unowned {
            tracing::warn!(workspace = %id, "removing what is left of a workspace that nobody owns");
            if let Err(error) = node.tear_down(&id) {
                tracing::error!(workspace = %id, %error, "it does not go; the next start of the node tries again");
            }
        }
    });
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
    crate::net::uplink::close(config)?;
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
