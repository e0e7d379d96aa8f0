//! `rigboxd admin restore`: checks a backup while nothing has changed, then puts its parts in place. Until the last step a mark keeps
//! Rigbox from starting; the same command carries on after an interruption.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rigbox_node::backup::{self, Copied};
use serde::{Deserialize, Serialize};

use super::control_part::{self, Installed, Part, STAGED};
use super::files;
use super::manifest::{self, DatabaseFacts, Manifest};
use crate::config::{DEFAULT_PATH, Installation};
use crate::role;

/// File in the state folder from the first change of a restore to the last.
const MARK: &str = "restore";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Configuration file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    config: PathBuf,
    /// Folder with the backup
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Folder with the keys, if they are not in place
    #[arg(long, value_name = "KEYS_DIR")]
    keys: Option<PathBuf>,
}

/// Restore that has begun to change something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    /// Time and database of the backup.
    backup: String,
    /// Folder of the backup, for messages.
    folder: PathBuf,
    /// True if the node gets the backup's journal and disks.
    with_node: bool,
}

impl Mark {
    fn read(state: &Path) -> Result<Option<Self>> {
        let path = state.join(MARK);
        match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
            Ok(text) => Ok(Some(
                serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))?,
            )),
        }
    }

    fn write(&self, state: &Path) -> Result<()> {
        let (path, new) = (state.join(MARK), state.join("restore.new"));
        files::remove(&new)?;
        files::write_new(&new, &serde_json::to_vec(self)?)?;
        fs::rename(&new, &path)?;
        sync(state)
    }

    fn remove(state: &Path) -> Result<()> {
        files::remove(&state.join(MARK))?;
        sync(state)
    }
}

fn sync(folder: &Path) -> Result<()> {
    Ok(fs::File::open(folder)?.sync_all()?)
}

/// Refuses to start Rigbox with a part of a backup.
pub(crate) fn ensure_finished(state: &Path) -> Result<()> {
    if let Some(mark) = Mark::read(state)? {
        bail!(
            "the restore of {} was interrupted: run `rigboxd admin restore` with it again",
            mark.folder.display()
        );
    }
    Ok(())
}

/// Gives up a restore that was interrupted, when nothing is left that it could complete.
pub(crate) fn forget(state: &Path) -> Result<()> {
    Mark::remove(state)
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let installation = Installation::load(&arguments.config)?;
    let state = installation.state();
    let _lock = role::lock(state)?;
    let folder = arguments.folder.canonicalize();
    let folder = folder.with_context(|| format!("cannot open {}", arguments.folder.display()))?;
    let manifest = Manifest::read(&folder)?;
    manifest.verify(&folder)?;
    let backup = format!("{} of {}", manifest.database, manifest.created_at);
    let begun = Mark::read(state)?;
    if let Some(mark) = &begun {
        ensure!(
            mark.backup == backup,
            "the restore of {} was interrupted: finish it before you restore another backup",
            mark.folder.display()
        );
    }
    role::prepare_folders(&installation)?;
    let control = state.join("control");
    let checked = stage(&control, &folder, arguments.keys.as_deref())
        .and_then(|()| check(&manifest, &arguments.config))
        .and_then(|()| match &begun {
            Some(mark) => Ok(mark.with_node),
            None => is_node_empty(&installation, &manifest),
        });
    let with_node = match checked {
        Ok(with_node) => with_node,
        Err(error) => {
            remove_staged(&control)?;
            return Err(error);
        }
    };
    Mark { backup, folder: folder.clone(), with_node }.write(state)?;
    let copied = match with_node {
        true => Some(backup::restore(&installation.node()?, &folder.join(manifest::NODE))?),
        false => None,
    };
    let installed: Installed = control_part::start(Part::Install, &arguments.config)?;
    remove_staged(&control)?;
    Mark::remove(state)?;
    print(&manifest, &installed, copied);
    Ok(())
}

/// Returns whether the node gets the backup's workspaces. One with workspaces has to work for the same database.
fn is_node_empty(installation: &Installation, manifest: &Manifest) -> Result<bool> {
    let node = installation.node()?;
    if backup::is_empty(&node)? {
        return Ok(true);
    }
    if let Some(database) = backup::owner(&node)? {
        ensure!(
            database.as_str() == manifest.database,
            "the backup is of database {}, and this node has workspaces of {database}: use a backup of that one",
            manifest.database
        );
    }
    Ok(false)
}

/// Copies database and keys beside their places, for control's part to check.
fn stage(control: &Path, folder: &Path, keys: Option<&Path>) -> Result<()> {
    remove_staged(control)?;
    let copy = |from: PathBuf, name: &str| files::copy_new(&from, &control.join(name));
    copy(folder.join(manifest::DATABASE), STAGED.database)?;
    let Some(keys) = keys else { return Ok(()) };
    copy(keys.join("token.key"), STAGED.token_key)?;
    let master_key = keys.join("master.key");
    // Otherwise it comes from elsewhere.
    if master_key.exists() { copy(master_key, STAGED.master_key) } else { Ok(()) }
}

/// Removes what an earlier restore has left beside the places.
fn remove_staged(control: &Path) -> Result<()> {
    let [wal, shm] = ["-wal", "-shm"].map(|suffix| format!("{}{suffix}", STAGED.database));
    for name in [STAGED.database, &wal, &shm, STAGED.token_key, STAGED.master_key] {
        files::remove(&control.join(name))?;
    }
    Ok(())
}

/// Checks that this version can open the database with the keys that are there.
fn check(manifest: &Manifest, config: &Path) -> Result<()> {
    let facts: DatabaseFacts = control_part::start(Part::Check, config)?;
    ensure!(
        facts.token_key == manifest.token_key,
        "wrong token key: the backup needs token key {}, and this is {}. Give the right one with --keys",
        manifest.token_key,
        facts.token_key
    );
    ensure!(
        facts.database == manifest.database,
        "the backup's list is of another database: use another backup"
    );
    Ok(())
}

fn print(manifest: &Manifest, installed: &Installed, copied: Option<Copied>) {
    println!("Restored database {} of {}.", manifest.database, manifest.created_at);
    for kept in &installed.kept {
        println!("Kept what was in its place as {kept}.");
    }
    match copied {
        Some(copied) => {
            println!("Restored {} workspaces in the journal and {} disks.", copied.workspaces, copied.disks);
        }
        None => println!("The node has workspaces of its own: journal and disks were left as they are."),
    }
    if installed.has_revocations {
        println!("Everybody is signed out. What was revoked after the backup is revoked again.");
    } else {
        println!("Everybody is signed out. There was no log of revocations (revocations.log):");
        println!("look through API keys, users and apps for what was revoked after the backup.");
    }
}
