//! Makes the table of AI prices from the data of a pinned LiteLLM release, and compares it with a second source. Both are wheels: they are
//! downloaded and read, and nothing of them is installed or run.

mod convert;
mod second_source;
mod wheel;

use std::fs;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::paths::checkout;
use convert::Table;
use wheel::Wheel;

/// The table, relative to the checkout.
const TABLE: &str = "crates/service/data/ai-prices.json";

const LITELLM: Wheel = Wheel {
    requirement: "litellm==1.110.2",
    sha256: "9d94d1c7d524b6fd10c14f9c8c6c4f0ac31705f9964ac59dcfd8337c046d8917",
    member: "litellm/model_prices_and_context_window_backup.json",
};
const SOURCE: &str = "litellm 1.110.2, model_prices_and_context_window_backup.json (MIT)";

/// Day on which that release was taken.
const DATE: &str = "2026-11-27";

/// Writes the table, or compares it with the second source.
pub(crate) fn ai_prices(check: bool) -> Result<()> {
    let path = checkout().join(TABLE);
    if check {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        return second_source::compare(&serde_json::from_str(&text)?);
    }
    let source: Value = serde_json::from_slice(&LITELLM.read()?)?;
    fs::write(&path, text(&convert::table(&source)?)).with_context(|| path.display().to_string())
}

/// Returns the table with one model on each line, so that changes can be read.
fn text(table: &Table) -> String {
    let models = |(provider, models): (&String, &_)| {
        let line = |(id, model): (&String, &Value)| format!("   {}: {model}", json!(id));
        let lines: Vec<String> = convert::Models::iter(models).map(line).collect();
        format!("  {}: {{\n{}\n  }}", json!(provider), lines.join(",\n"))
    };
    let providers: Vec<String> = table.iter().map(models).collect();
    let (date, source, providers) = (json!(DATE), json!(SOURCE), providers.join(",\n"));
    format!("{{\n \"date\": {date},\n \"source\": {source},\n \"models\": {{\n{providers}\n }}\n}}\n")
}
