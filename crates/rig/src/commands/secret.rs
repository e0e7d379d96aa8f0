//! `rig secret proxy`: credentials that stay outside of workspaces.

use std::collections::HashMap;

use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::api::Api;
use crate::args::{AddProxiedSecretArguments, ProxiedSecretCommand, SecretCommand};
use crate::commands::{hidden_value, names};
use crate::failure::Failure;
use crate::output::{Format, Output, escape};

const ROUTE: [&str; 3] = ["users", "me", "proxied-secrets"];

pub(super) async fn run(api: &Api, out: &Output, command: SecretCommand) -> Result<(), Failure> {
    let SecretCommand::Proxy(command) = command;
    match command {
        ProxiedSecretCommand::Ls => ls(api, out).await,
        ProxiedSecretCommand::Add(arguments) => add(api, out, arguments).await,
        ProxiedSecretCommand::Rm { names } => rm(api, out, &names).await,
    }
}

/// Returns a field of a secret.
fn text<'a>(secret: &'a Map<String, Value>, field: &str) -> &'a str {
    secret.get(field).and_then(Value::as_str).unwrap_or("?")
}

async fn ls(api: &Api, out: &Output) -> Result<(), Failure> {
    let response: Map<String, Value> = api.get(&ROUTE).await?;
    let secrets = response.get("proxied_secrets").and_then(Value::as_array).cloned().unwrap_or_default();
    out.response("secret_proxy_ls", response)?;
    let secrets: Vec<_> = secrets.iter().filter_map(Value::as_object).collect();
    let workspaces = match out.format() {
        Format::Text if secrets.iter().any(|secret| secret.contains_key("workspace_id")) => {
            names::of_workspaces(api).await
        }
        _ => HashMap::new(),
    };
    let rows = secrets.into_iter().map(|secret| {
        let id = secret.get("workspace_id").and_then(Value::as_str);
        let workspace = id.map_or("all", |id| workspaces.get(id).map_or(id, String::as_str));
        let header = format!("{}: {}", text(secret, "header"), text(secret, "format"));
        let [name, host, url] = ["name", "host", "url"].map(|field| text(secret, field).to_owned());
        vec![name, host, header, workspace.to_owned(), url]
    });
    out.table(&["NAME", "HOST", "HEADER", "WORKSPACE", "ADDRESS IN A WORKSPACE"], rows)
}

async fn add(api: &Api, out: &Output, arguments: AddProxiedSecretArguments) -> Result<(), Failure> {
    let AddProxiedSecretArguments { name, host, header, format, workspace } = arguments;
    let workspace_id = match &workspace {
        Some(workspace) => Some(api.find(workspace).await?.id),
        None => None,
    };
    let secret = hidden_value::read(&name, "run it in a terminal")?;
    let body = json!({
        "host": host, "header": header, "format": format, "workspace_id": workspace_id, "secret": secret,
    });
    let [users, me, secrets] = ROUTE;
    let request = api.request(Method::PUT, &[users, me, secrets, &name], &[])?.json(&body);
    let response = api.call(request).await?;
    out.line(&format!(
        "Stored. In a workspace, {} is https://{}/ with it.",
        escape(text(&response, "url")),
        escape(text(&response, "host"))
    ))?;
    out.response("secret_proxy_add", response)
}

async fn rm(api: &Api, out: &Output, names: &[String]) -> Result<(), Failure> {
    let [users, me, secrets] = ROUTE;
    for name in names {
        let request = api.request(Method::DELETE, &[users, me, secrets, name], &[])?;
        out.response("secret_proxy_rm", api.call(request).await?)?;
        out.line(&format!("Proxied secret {} removed", escape(name)))?;
    }
    Ok(())
}
