//! `rig ai`: credits for AI calls, what was used of them, and settings.

use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::api::Api;
use crate::args::{AiCommand, AiConfigArguments};
use crate::commands::hidden_value;
use crate::failure::Failure;
use crate::output::{Output, escape};

pub(super) async fn run(api: &Api, out: &Output, command: &AiCommand) -> Result<(), Failure> {
    match command {
        AiCommand::Credits => credits(api, out).await,
        AiCommand::Usage => usage(api, out).await,
        AiCommand::Config(arguments) => config(api, out, arguments).await,
    }
}

async fn config(api: &Api, out: &Output, arguments: &AiConfigArguments) -> Result<(), Failure> {
    // The account's fields are those of a workspace with a prefix.
    let vm = match &arguments.workspace {
        Some(workspace) => Some(api.find(workspace).await?),
        None => None,
    };
    let (path, prefix, whose) = match &vm {
        Some(vm) => (["workspaces", &vm.id, "ai-config"], "", vm.name.as_str()),
        None => (["users", "me", "ai-defaults"], "default_", "your account"),
    };
    let changes = changes(arguments, prefix)?;
    let response: Map<String, Value> = if changes.is_empty() {
        api.get(&path).await?
    } else {
        api.call(api.request(Method::PUT, &path, &[])?.json(&changes)).await?
    };
    let text = |field: &str| {
        let value = response.get(&format!("{prefix}{field}")).and_then(Value::as_str).unwrap_or("?");
        escape(value).to_string()
    };
    let model = if text("model").is_empty() { "none chosen".to_owned() } else { text("model") };
    out.line(&format!(
        "AI settings of {}: {}, mode {}, provider {}, model {model}, key delivery {}",
        escape(whose),
        text("status"),
        text("mode"),
        text("provider"),
        text("key_delivery")
    ))?;
    if let Some(message) = response.get("message").and_then(Value::as_str) {
        out.line(&escape(message))?;
    }
    out.response("ai_config", response)
}

/// Returns the changed fields of a request.
fn changes(arguments: &AiConfigArguments, prefix: &str) -> Result<Map<String, Value>, Failure> {
    let mut changes = Map::new();
    let mut change = |field: &str, value: Value| drop(changes.insert(format!("{prefix}{field}"), value));
    if let Some(mode) = arguments.mode {
        change("mode", json!(mode.as_wire()));
    }
    if let Some(delivery) = arguments.key_delivery {
        change("key_delivery", json!(delivery.as_wire()));
    }
    for (field, value) in [("provider", &arguments.provider), ("model", &arguments.model)] {
        if let Some(value) = value {
            change(field, json!(Some(value).filter(|value| *value != "default")));
        }
    }
    if arguments.key {
        change("api_key", json!(hidden_value::read("API key", "run it in a terminal")?));
    } else if arguments.clear_key {
        change("api_key", Value::Null);
    }
    Ok(changes)
}

async fn credits(api: &Api, out: &Output) -> Result<(), Failure> {
    let response: Map<String, Value> = api.get(&["users", "me", "credits"]).await?;
    let amount = |name: &str| dollars(response.get(name));
    let mode = response.get("mode").and_then(Value::as_str).unwrap_or("?");
    out.line(&format!("{} of {} left, mode {}", amount("remaining"), amount("total"), escape(mode)))?;
    out.response("ai_credits", response)
}

async fn usage(api: &Api, out: &Output) -> Result<(), Failure> {
    let response: Map<String, Value> = api.get(&["users", "me", "ai-usage"]).await?;
    let days = response.get("window_days").and_then(Value::as_i64).unwrap_or_default();
    let rows = |part: &str, name: &str| {
        let items = response.get(part).and_then(Value::as_array).into_iter().flatten();
        items.map(|item| row(item, name)).collect::<Vec<_>>()
    };
    let (daily, workspaces) = (rows("daily", "day"), rows("by_workspace", "workspace_name"));
    if daily.is_empty() {
        out.line(&format!("No AI calls in the last {days} days."))?;
    } else {
        out.table(&["DAY", "CALLS", "INPUT", "OUTPUT", "COST"], daily.into_iter())?;
        out.line("")?;
        out.table(&["WORKSPACE", "CALLS", "INPUT", "OUTPUT", "COST"], workspaces.into_iter())?;
    }
    out.response("ai_usage", response)
}

fn row(item: &Value, name: &str) -> Vec<String> {
    let number = |field: &str| item.get(field).and_then(Value::as_u64).unwrap_or_default().to_string();
    vec![
        item.get(name).and_then(Value::as_str).unwrap_or("?").to_owned(),
        number("requests"),
        number("input_tokens"),
        number("output_tokens"),
        dollars(item.get("credits")),
    ]
}

/// Returns an amount in dollars, with cents, or with more where it is less than a cent.
fn dollars(amount: Option<&Value>) -> String {
    match amount.and_then(Value::as_f64) {
        None => "?".to_owned(),
        Some(amount) if amount > 0.0 && amount < 0.01 => format!("${amount:.6}"),
        Some(amount) => format!("${amount:.2}"),
    }
}
