//! `rig api-key`.

use std::collections::HashMap;
use std::time::SystemTime;

use reqwest::Method;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::api::Api;
use crate::args::{ApiKeyCommand, NewApiKeyArguments, duration};
use crate::commands::names;
use crate::failure::Failure;
use crate::output::{Format, Output, escape};

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
    let is_limited = keys.iter().any(|key| key.get("workspaces").is_some());
    let names = match (out.format(), is_limited) {
        (Format::Text, true) => names::of_workspaces(api).await,
        _ => HashMap::new(),
    };
    let rows = keys.iter().map(|key| {
        let text = |name: &str| key.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
        let scope = match key.get("workspaces").and_then(Value::as_array) {
            None => "account".to_owned(),
            Some(ids) => {
                let ids: Vec<String> = ids.iter().filter_map(Value::as_str).map(str::to_owned).collect();
                names::scope(&text("role"), &ids, &names)
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
    if let Some(expires) = &arguments.expires {
        set("expires_at", json!(expiry(expires, SystemTime::now())?));
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

/// Returns the time at which a key expires: now and a duration, or the time that is given.
fn expiry(text: &str, now: SystemTime) -> Result<String, Failure> {
    // A number alone would be seconds, which nobody means here.
    let has_unit = text.ends_with(|last: char| last.is_ascii_alphabetic());
    let time = match duration::parse(text) {
        Ok(after) if has_unit => now.checked_add(after).map(OffsetDateTime::from),
        _ => OffsetDateTime::parse(text, &Rfc3339).ok(),
    };
    time.and_then(|time| time.format(&Rfc3339).ok()).ok_or_else(|| {
        let message = format!(
            "--expires: `{text}` is neither a duration such as 30d nor a time such as 2027-01-31T12:00:00Z"
        );
        Failure::new("usage", message)
    })
}

/// Finds a key by id or name. An id wins; a name has to be that of one key.
async fn find(api: &Api, text: &str) -> Result<String, Failure> {
    let response: Map<String, Value> = api.get(&[ROUTE]).await?;
    let keys = response.get("api_keys").and_then(Value::as_array).cloned().unwrap_or_default();
    let ids = |field: &str| -> Vec<&str> {
        let matching = keys.iter().filter(|key| key.get(field).and_then(Value::as_str) == Some(text));
        matching.filter_map(|key| key.get("id")?.as_str()).collect()
    };
    match (ids("id").as_slice(), ids("name").as_slice()) {
        ([id, ..], _) | ([], [id]) => Ok((*id).to_owned()),
        ([], []) => {
            let message = format!("API key `{text}` not found; `rig api-key ls` lists your keys");
            Err(Failure::new("not_found", message))
        }
        ([], several) => {
            let message = format!(
                "{} API keys have the name `{text}`; use an id: {}",
                several.len(),
                several.join(", ")
            );
            Err(Failure::new("ambiguous", message))
        }
    }
}

async fn rotate(api: &Api, out: &Output, key: &str, grace_s: u32) -> Result<(), Failure> {
    let id = &find(api, key).await?;
    let request = api.request(Method::POST, &[ROUTE, id, "rotate"], &[])?;
    let response = api.call(request.json(&json!({"grace_s": grace_s}))).await?;
    show(out, "api_key_rotate", response)
}

async fn rm(api: &Api, out: &Output, key: &str) -> Result<(), Failure> {
    let id = &find(api, key).await?;
    let response: Map<String, Value> = api.send(Method::DELETE, &[ROUTE, id]).await?;
    out.response("api_key_rm", response)?;
    out.line(&format!("API key {} revoked", escape(key)))
}

/// Prints the secret alone on its line, for pipes.
fn show(out: &Output, event: &str, response: Map<String, Value>) -> Result<(), Failure> {
    let secret = response.get("key").and_then(Value::as_str).unwrap_or_default().to_owned();
    out.response(event, response)?;
    out.warn("this key is shown only once; store it securely");
    out.line(&escape(&secret))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn key_expires_in_a_while_or_at_a_time() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400);
        for (text, time) in [
            ("30d", "1970-02-01T00:00:00Z"),
            ("12h", "1970-01-02T12:00:00Z"),
            ("2027-01-31T12:00:00Z", "2027-01-31T12:00:00Z"),
        ] {
            assert_eq!(expiry(text, now).unwrap(), time);
        }
        for bad in ["tomorrow", "", "2027-01-31", "-1d", "30"] {
            assert!(expiry(bad, now).is_err(), "{bad}");
        }
    }
}
