//! SSH keys of whoever runs `cargo xtask up`: registered if they are named, or if the answer at the terminal is yes.

use std::fs;
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::installation::Installation;

/// Code of the refusal of a key that is registered already.
const REGISTERED: &str = "\"code\":\"key_exists\"";

/// Registers the keys in `named`, or those in `~/.ssh` that the user agrees to.
pub(crate) fn register(installation: &Installation, named: &[PathBuf]) -> Result<()> {
    named.iter().try_for_each(|path| add(installation, path))?;
    if !named.is_empty() || !std::io::stdin().is_terminal() {
        return Ok(());
    }
    for path in own_keys() {
        if agrees(&path)? {
            add(installation, &path)?;
        }
    }
    Ok(())
}

fn agrees(path: &Path) -> Result<bool> {
    eprint!("    Register {} for SSH? [y/N] ", path.display());
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Returns the public keys in `~/.ssh`.
fn own_keys() -> Vec<PathBuf> {
    let folder = std::env::home_dir().map(|home| home.join(".ssh"));
    let entries = folder.and_then(|folder| fs::read_dir(folder).ok());
    let mut keys: Vec<PathBuf> = entries.into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    keys.retain(|path| path.extension().is_some_and(|extension| extension == "pub"));
    keys.sort();
    keys
}

fn add(installation: &Installation, path: &Path) -> Result<()> {
    let name = path.file_stem().and_then(|name| name.to_str()).context("the key's file has no name")?;
    let mut rig = installation.rig()?;
    let output =
        rig.args(["ssh-key", "add", "--output", "json", "--name", name, "--file"]).arg(path).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        eprintln!("    registered {}", path.display());
        return Ok(());
    }
    anyhow::ensure!(text.contains(REGISTERED), "cannot register {}: {}", path.display(), text.trim());
    eprintln!("    {} is registered already", path.display());
    Ok(())
}
