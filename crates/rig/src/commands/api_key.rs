//! `rig api-key`.

use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::api::Api;
use crate::args::{ApiKeyCommand, NewKeyArguments};
use crate::failure::Failure;
use crate::output::{Output, plain};

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
    let answer: Map<String, Value> = api.get(&[ROUTE]).await?;
    let keys = answer.get("api_keys").and_then(Value::as_array).cloned().unwrap_or_default();
    out.answer("api_key_ls", answer)?;
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
    out.table(&["ID", "NAME", "KEY", "OPENS", "ENDS", "LAST USED"], rows)
}

async fn new(api: &Api, out: &Output, arguments: &NewKeyArguments) -> Result<(), Failure> {
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
    let answer = api.call(api.request(Method::POST, &[ROUTE], &[])?.json(&body)).await?;
    show(out, "api_key_new", answer)
}

async fn rotate(api: &Api, out: &Output, id: &str, grace_s: u32) -> Result<(), Failure> {
    let request = api.request(Method::POST, &[ROUTE, id, "rotate"], &[])?;
    let answer = api.call(request.json(&json!({"grace_s": grace_s}))).await?;
    show(out, "api_key_rotate", answer)
}

async fn rm(api: &Api, out: &Output, id: &str) -> Result<(), Failure> {
    let answer: Map<String, Value> = api.send(Method::DELETE, &[ROUTE, id]).await?;
    out.answer("api_key_rm", answer)?;
    out.say(&format!("{} is revoked", plain(id)))
}

/// The secret alone on its line, for a pipe; what is to be known of it beside.
fn show(out: &Output, event: &str, answer: Map<String, Value>) -> Result<(), Failure> {
    let secret = answer.get("key").and_then(Value::as_str).unwrap_or_default().to_owned();
    out.answer(event, answer)?;
    out.warn("this key is shown once: keep it where secrets are kept");
    out.say(&plain(&secret))
}
