//! `rig api-key`.

use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::api::Api;
use crate::args::{ApiKeyCommand, NewApiKeyArguments};
use crate::failure::Failure;
use crate::output::{Output, escape};

const ROUTE: &str = "api-keys";

pub(super) async fn run(api: &Api, out: &Output, command: ApiKeyCommand) -> Result<(), Failure> {
    match command {
        ApiKeyCommand::Ls => ls(api, out).await,
        ApiKeyCommand::New(arguments) => new(api, out, &arguments).await,
        ApiKeyCommand::Rotate { id, grace_s } => rotate(api, out, &id, grace_s).await,
        ApiKeyCommand::Rm { id } => rm(api, out, &id).await,
    }
}

async fn ls(api: &Api, out: &Output) -> Result<(), Failure> {
    let response: Map<String, Value> = api.get(&[ROUTE]).await?;
    let keys = response.get("api_keys").and_then(Value::as_array).cloned().unwrap_or_default();
    out.response("api_key_ls", response)?;
    let rows = keys.iter().map(|key| {
        let text = |name: &str| key.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
        let scope = match key.get("workspaces").and_then(Value::as_array) {
            None => "account".to_owned(),
            Some(ids) => {
                let ids: Vec<&str> = ids.iter().filter_map(Value::as_str).collect();
                format!("{} {}", text("role"), ids.join(" "))
            }
        };
        vec![text("id"), text("name"), text("preview"), scope, text("expires_at"), text("last_used_at")]
    });
    out.table(&["ID", "NAME", "KEY", "SCOPE", "EXPIRES", "LAST USED"], rows)
}

async fn new(api: &Api, out: &Output, arguments: &NewApiKeyArguments) -> Result<(), Failure> {
    let mut body = json!({"name": arguments.name});
    let mut set = |field: &str, value: Value| {
        if let Some(body) = body.as_object_mut() {
            body.insert(field.to_owned(), value);
        }
    };
    if let Some(end) = &arguments.expires_at {
        set("expires_at", json!(end));
    }
    if let Some(role) = &arguments.role {
        set("role", json!(role));
    }
    if !arguments.workspaces.is_empty() {
        let mut ids = Vec::new();
        for workspace in &arguments.workspaces {
            ids.push(api.find(workspace).await?.id);
        }
        set("workspaces", json!(ids));
    }
    let response = api.call(api.request(Method::POST, &[ROUTE], &[])?.json(&body)).await?;
    show(out, "api_key_new", response)
}

async fn rotate(api: &Api, out: &Output, id: &str, grace_s: u32) -> Result<(), Failure> {
    let request = api.request(Method::POST, &[ROUTE, id, "rotate"], &[])?;
    let response = api.call(request.json(&json!({"grace_s": grace_s}))).await?;
    show(out, "api_key_rotate", response)
}

async fn rm(api: &Api, out: &Output, id: &str) -> Result<(), Failure> {
    let response: Map<String, Value> = api.send(Method::DELETE, &[ROUTE, id]).await?;
    out.response("api_key_rm", response)?;
    out.line(&format!("API key {} revoked", escape(id)))
}

/// Prints the secret alone on its line, for pipes.
fn show(out: &Output, event: &str, response: Map<String, Value>) -> Result<(), Failure> {
    let secret = response.get("key").and_then(Value::as_str).unwrap_or_default().to_owned();
    out.response(event, response)?;
    out.warn("this key is shown only once; store it securely");
    out.line(&escape(&secret))
}
