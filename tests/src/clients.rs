//! Everyday work with a workspace: create it, run commands in it, move files. One file per client.

pub(crate) mod ai;
pub(crate) mod cli;
pub(crate) mod generated;
pub(crate) mod http;
pub(crate) mod ssh;

use anyhow::Result;
use serde_json::Value;

use crate::harness::installation::Installation;

/// Returns the id of the workspace that these modules and `image` share.
pub(crate) fn shared(installation: &Installation) -> Result<String> {
    let listed = installation.api.get("/workspaces?name=shared")?.expect(200)?;
    match listed.pointer("/vms/0/id").and_then(Value::as_str) {
        Some(id) => Ok(id.to_owned()),
        None => installation.api.spawn("shared"),
    }
}
