//! `rig app command` and `rig app wrap`: the service that runs an app, and that starts with its workspace.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{ROUTE, text_in};
use crate::api::Api;
use crate::failure::Failure;
use crate::output::{Output, escape};

/// Has a command run the app.
pub(super) async fn command(
    api: &Api,
    out: &Output,
    id: &str,
    command: &str,
    cwd: Option<&str>,
    env: &[(String, String)],
) -> Result<(), Failure> {
    let mut body = Map::from_iter([("command".to_owned(), json!(command))]);
    if let Some(cwd) = cwd {
        body.insert("cwd".to_owned(), json!(cwd));
    }
    if !env.is_empty() {
        body.insert("env_vars".to_owned(), json!(env.iter().cloned().collect::<BTreeMap<_, _>>()));
    }
    set(api, out, id, "app_command", &Value::Object(body)).await
}

/// Has the app's service run what listens on its port now.
pub(super) async fn wrap(api: &Api, out: &Output, app: &str) -> Result<(), Failure> {
    let app = api.find_app(app).await?;
    set(api, out, &app.id, "app_wrap", &json!({})).await
}

async fn set(api: &Api, out: &Output, id: &str, event: &str, body: &Value) -> Result<(), Failure> {
    let request = api.request(Method::PUT, &[ROUTE, id, "service"], &[])?.json(body);
    let response: Map<String, Value> = api.call(request).await?;
    let message = text_in(&response, "message");
    out.response(event, response)?;
    out.line(&escape(&message))
}
