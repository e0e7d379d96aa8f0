//! Everyday work with a workspace: create it, run commands in it, move files. One file per client.

pub(crate) mod agents;
pub(crate) mod ai;
pub(crate) mod cli;
pub(crate) mod generated;
pub(crate) mod http;
pub(crate) mod ssh;

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::TestResult;
use crate::harness::installation::Installation;

/// Name of the workspace that these modules and `image` share.
const SHARED: &str = "shared";

/// Returns the id of that workspace.
pub(crate) fn shared(installation: &Installation) -> Result<String> {
    let listed = installation.api.get(&format!("/workspaces?name={SHARED}"))?.expect(200)?;
    match listed.pointer("/vms/0/id").and_then(Value::as_str) {
        Some(id) => Ok(id.to_owned()),
        None => installation.api.spawn(SHARED),
    }
}

/// Copies a folder into a workspace, as one archive: to `name` in the user's home.
fn copy_in(
    installation: &Installation,
    workspace: &str,
    folder: &Path,
    name: &str,
    without: &[&str],
) -> TestResult {
    let archive = installation.scratch.join("copied-in.tar");
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(folder).arg("-cf").arg(&archive);
    for pattern in without {
        tar.arg(format!("--exclude={pattern}"));
    }
    ensure!(tar.arg(".").status()?.success(), "tar failed");
    let source = archive.display().to_string();
    let copied = installation.rig(&["cp", &source, &format!("{workspace}:/tmp/")]).output()?;
    ensure!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    std::fs::remove_file(&archive)?;
    let unpack =
        format!("mkdir -p ~/{name} && tar -C ~/{name} -xf /tmp/copied-in.tar && rm /tmp/copied-in.tar");
    let unpacked = installation.rig(&["exec", workspace, "--", "bash", "-c", &unpack]).output()?;
    ensure!(unpacked.status.success(), "{}", String::from_utf8_lossy(&unpacked.stderr));
    Ok(())
}
