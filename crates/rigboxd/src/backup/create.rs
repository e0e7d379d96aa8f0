//! `rigboxd admin backup`: copies database, journal and on request disks, whether Rigbox runs or not.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rigbox_control::{KeySource, MasterKeyId};
use rigbox_node::backup::Copied;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::control_part::{self, Part};
use super::files;
use super::manifest::{self, DatabaseFacts, Manifest};
use crate::config::Installation;
use crate::find::ExistingInstallation;
use crate::role;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ExistingInstallation,
    /// New folder for the backup
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Also copy the keys, to another new folder; keep it apart from the backup
    #[arg(long, value_name = "KEYS_DIR")]
    keys: Option<PathBuf>,
    /// Also copy the disks of all workspaces, each as it is at one moment
    #[arg(long)]
    disks: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let (installation, config) = arguments.config.load_with_path()?;
    // Held, so that Rigbox does not start meanwhile; otherwise it is running.
    let lock = role::lock(installation.state());
    let folder = files::create_folder(&arguments.folder)?;
    let mut made = vec![folder.clone()];
    let created = folders(arguments, &installation, &folder, &mut made)
        .and_then(|keys| create(arguments, &installation, &config, (&folder, keys), lock.is_err()));
    if created.is_err() {
        // They were empty, and a part of a backup is of no use.
        for folder in made.iter().rev() {
            if let Err(error) = fs::remove_dir_all(folder) {
                tracing::warn!(folder = %folder.display(), %error, "failed to remove an incomplete backup");
            }
        }
    }
    created
}

/// Checks where the backup goes, and creates the folder for the keys.
fn folders(
    arguments: &Arguments,
    installation: &Installation,
    folder: &Path,
    made: &mut Vec<PathBuf>,
) -> Result<Option<PathBuf>> {
    ensure!(
        !folder.starts_with(installation.state()),
        "{} is in the state folder, which it is a backup of. Name another folder",
        folder.display()
    );
    let Some(keys) = &arguments.keys else { return Ok(None) };
    let keys = create_keys_folder(keys, folder)?;
    made.push(keys.clone());
    Ok(Some(keys))
}

fn create(
    arguments: &Arguments,
    installation: &Installation,
    config: &Path,
    (folder, keys): (&Path, Option<PathBuf>),
    is_running: bool,
) -> Result<()> {
    let facts: DatabaseFacts = control_part::start(Part::Copy, config)?;
    let copy = installation.state().join("control").join(control_part::COPY);
    files::copy_new(&copy, &folder.join(manifest::DATABASE))?;
    files::remove(&copy)?;
    let node = folder.join(manifest::NODE);
    let copied = rigbox_node::backup::back_up(&installation.node()?, &node, arguments.disks, is_running)?;
    let source = installation.control(&installation.state().join("control")).master_key;
    if let Some(keys) = &keys {
        copy_keys(installation, &source, &facts.master_keys, keys)?;
    }
    let created_at = OffsetDateTime::now_utc().replace_nanosecond(0)?.format(&Rfc3339)?;
    let manifest = Manifest::of(folder, facts, arguments.disks, created_at)?;
    manifest.write(folder)?;
    print(&manifest, copied, folder, keys.as_deref(), &source);
    Ok(())
}

/// Creates the folder for keys, which may not be in the backup's, nor that in it.
fn create_keys_folder(keys: &Path, folder: &Path) -> Result<PathBuf> {
    let existed = keys.exists();
    let created = files::create_folder(keys)?;
    if created.starts_with(folder) || folder.starts_with(&created) {
        if !existed {
            fs::remove_dir(&created)?;
        }
        anyhow::bail!(
            "{} and the backup's folder contain one another, and keys have to be kept apart. Name another folder",
            keys.display()
        );
    }
    Ok(created)
}

/// Copies the keys that are files. Those of `wanted` that are not there any more were rotated meanwhile.
fn copy_keys(installation: &Installation, source: &KeySource, wanted: &[String], keys: &Path) -> Result<()> {
    let control = installation.state().join("control");
    files::copy_new(&control.join("token.key"), &keys.join("token.key"))?;
    if let KeySource::File(path) = source {
        // Only control's own folder may have links made by control.
        let path = if path.starts_with(&control) { path.clone() } else { path.canonicalize()? };
        // Without a secret in the database there is none yet.
        if path.exists() {
            let copy = keys.join("master.key");
            files::copy_new(&path, &copy)?;
            let wanted = wanted.iter().map(|id| id.parse()).collect::<Result<Vec<MasterKeyId>, _>>()?;
            let runtime = tokio::runtime::Builder::new_current_thread().build()?;
            runtime
                .block_on(KeySource::File(copy).check(&wanted))
                .context("the master key was rotated while the backup was made. Make another one")?;
        }
    }
    files::sync_folders(keys)
}

fn print(manifest: &Manifest, copied: Copied, folder: &Path, keys: Option<&Path>, source: &KeySource) {
    let disks = if manifest.disks { copied.disks.to_string() } else { "no".to_owned() };
    println!(
        "Backed up database {} with {} workspaces and {disks} disks to {}.",
        manifest.database,
        copied.workspaces,
        folder.display()
    );
    let master_keys = manifest.master_keys.join(", ");
    println!("A restore needs token key {} and master key {master_keys}.", manifest.token_key);
    println!("Without the token key all API keys are lost, without the master key all environment values.");
    match keys {
        Some(keys) => {
            println!("The keys that are files are in {}: keep it apart from the backup.", keys.display())
        }
        None => println!("They are not in the backup: copy them once, and after each rotation (--keys)."),
    }
    if !matches!(source, KeySource::File(_)) {
        println!("The master key comes from {source}: it is yours to keep.");
    }
}
