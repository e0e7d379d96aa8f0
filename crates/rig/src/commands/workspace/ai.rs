//! `rig workspace ai`: with whose keys a workspace's AI calls are made.

use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::api::Api;
use crate::args::WorkspaceAiCommand;
use crate::failure::Failure;
use crate::output::{Event, Output, escape};

pub(super) async fn run(api: &Api, out: &Output, command: &WorkspaceAiCommand) -> Result<(), Failure> {
    let WorkspaceAiCommand::Mode { workspace, mode } = command;
    let vm = api.find(workspace).await?;
    let path = ["workspaces", vm.id.as_str(), "mode"];
    let response: Map<String, Value> = match mode {
        None => api.get(&path).await?,
        Some(mode) => {
            let body = json!({ "mode": mode.as_wire() });
            api.call(api.request(Method::PUT, &path, &[])?.json(&body)).await?
        }
    };
    let text = |field: &str| response.get(field).and_then(Value::as_str).unwrap_or("?");
    let origin = if text("source") == "workspace" { "set for it" } else { "that of the account" };
    out.line(&format!("AI mode of {}: {} ({origin})", escape(&vm.name), escape(text("mode"))))?;
    out.event(&Event::Mode { workspace: &vm.name, mode: text("mode") })
}
