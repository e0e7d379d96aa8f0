//! `rig ai`: credits for AI calls, and what was used of them.

use serde_json::{Map, Value};

use crate::api::Api;
use crate::args::AiCommand;
use crate::failure::Failure;
use crate::output::{Output, escape};

pub(super) async fn run(api: &Api, out: &Output, command: &AiCommand) -> Result<(), Failure> {
    match command {
        AiCommand::Credits => credits(api, out).await,
        AiCommand::Usage => usage(api, out).await,
    }
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
