//! Keys of the benchmark `ssh`. They open nothing else, so that most need not be secret.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Seed of the gateway's host key.
pub(super) const GATEWAY_SEED: [u8; 32] = [1; 32];
/// Seed of the key by which the gateway logs in.
pub(super) const BOOT_SEED: [u8; 32] = [2; 32];
/// Seed of a user's key, for clients that are not OpenSSH's.
pub(super) const USER_SEED: [u8; 32] = [3; 32];

/// Generates a key as OpenSSH stores it. Returns its path; `.pub` after it is that of the public half.
pub(super) fn generate(folder: &Path, name: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(&path);
    let status = command.status().context("cannot run ssh-keygen; install openssh-client")?;
    anyhow::ensure!(status.success(), "ssh-keygen: {status}");
    Ok(path)
}

/// Returns the public half of a key as a line.
pub(super) fn public_line(path: &Path) -> Result<String> {
    Ok(fs::read_to_string(path.with_extension("pub"))?)
}

/// Returns the public half of a key as SSH writes it.
pub(super) fn public(path: &Path) -> Result<Vec<u8>> {
    let line = public_line(path)?;
    Ok(STANDARD.decode(line.split(' ').nth(1).context("no public key in the file")?)?)
}
