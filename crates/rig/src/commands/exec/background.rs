//! Commands in the background: `rig exec --detach`, `rig ps`, `rig attach` and `rig kill`.

use reqwest::Method;
use serde_json::{Map, Value, json};

use super::Request;
use super::request;
use super::sink::Sink;
use crate::api::{Api, ApiError};
use crate::failure::Failure;
use crate::output::{Output, escape};

/// Starts the command and prints its id alone on its line, for pipes.
pub(super) async fn start(api: &Api, out: &Output, workspace: &str, body: &Request) -> Result<u8, Failure> {
    let vm = api.find(workspace).await?;
    let request = api.request(Method::POST, &["workspaces", &vm.id, "processes"], &[])?.json(body);
    let response: Map<String, Value> = api.call(request).await.map_err(|error| match error {
        ApiError::Refused { code, message, .. } if code == "not_found" || code == "permission_denied" => {
            Failure::Command { code, message: body.explain(message) }
        }
        other => other.into(),
    })?;
    let id = response.get("process").map(|process| text_of(process, "id")).unwrap_or_default();
    out.response("exec_detach", response)?;
    out.line(&escape(&id))?;
    Ok(0)
}

pub(crate) async fn ps(api: &Api, out: &Output, workspace: &str) -> Result<(), Failure> {
    let vm = api.find(workspace).await?;
    let response: Map<String, Value> = api.get(&["workspaces", &vm.id, "processes"]).await?;
    let processes = response.get("processes").and_then(Value::as_array).cloned().unwrap_or_default();
    out.response("ps", response)?;
    if processes.is_empty() {
        return out.line("No commands. Start one in the background with `rig exec --detach`.");
    }
    let rows = processes.iter().map(|process| {
        let pid = process.get("pid").map(Value::to_string).unwrap_or_default();
        let mode = if process.get("detached") == Some(&json!(true)) { "background" } else { "attached" };
        vec![
            text_of(process, "id"),
            pid,
            text_of(process, "user"),
            status(process),
            mode.to_owned(),
            text_of(process, "started_at"),
            text_of(process, "command"),
        ]
    });
    out.table(&["ID", "PID", "USER", "STATUS", "MODE", "STARTED", "COMMAND"], rows)
}

/// Prints the kept output and what follows, and returns the command's exit code.
pub(crate) async fn attach(api: &Api, out: &Output, workspace: &str, id: &str) -> Result<u8, Failure> {
    let vm = api.find(workspace).await?;
    let request = api.request(Method::GET, &["workspaces", &vm.id, "processes", id, "output"], &[])?;
    let mut sink = Sink::new(out);
    let end = request::read(api, api.open(request).await?, &mut sink).await?;
    sink.finish(end).await
}

pub(crate) async fn kill(
    api: &Api,
    out: &Output,
    workspace: &str,
    id: &str,
    signal: &str,
) -> Result<(), Failure> {
    let vm = api.find(workspace).await?;
    api.signal(&vm.id, id, signal).await?;
    let fields = [("process".to_owned(), json!(id)), ("signal".to_owned(), json!(signal))];
    out.response("kill", fields.into_iter().collect())
}

fn status(process: &Value) -> String {
    let field = |name: &str| process.get(name);
    match (field("exit_code"), field("signal").and_then(Value::as_str), field("error")) {
        (Some(code), _, _) => format!("exited ({code})"),
        (_, Some(signal), _) => format!("killed ({signal})"),
        (_, _, Some(error)) => format!("ended ({})", text_of(error, "code")),
        (None, None, None) => text_of(process, "status"),
    }
}

fn text_of(value: &Value, name: &str) -> String {
    value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}
