//! `rig proxy`: the switch of a workspace's proxy.

use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::api::Api;
use crate::args::{ProxyArguments, ProxyCommand};
use crate::failure::Failure;
use crate::output::{Output, escape};

pub(super) async fn run(api: &Api, out: &Output, command: ProxyCommand) -> Result<(), Failure> {
    let (ProxyArguments { workspace }, enabled) = match command {
        ProxyCommand::On(arguments) => (arguments, Some(true)),
        ProxyCommand::Off(arguments) => (arguments, Some(false)),
        ProxyCommand::Status(arguments) => (arguments, None),
    };
    let vm = api.find_or_current(workspace.as_deref()).await?;
    let path = ["workspaces", vm.id.as_str(), "ai-proxy"];
    let response: Map<String, Value> = match enabled {
        None => api.get(&path).await?,
        Some(enabled) => {
            let body = json!({ "enabled": enabled });
            api.call(api.request(Method::PUT, &path, &[])?.json(&body)).await?
        }
    };
    let is_on = response.get("enabled").and_then(Value::as_bool).unwrap_or_default();
    let mode = response.get("mode").and_then(Value::as_str).unwrap_or("?");
    let state = if is_on { "on" } else { "off: no AI call and no proxied secret passes" };
    out.line(&format!("Proxy of {}: {state} (AI mode {})", escape(&vm.name), escape(mode)))?;
    out.response("proxy", response)
}
