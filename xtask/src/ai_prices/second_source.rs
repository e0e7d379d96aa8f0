//! Comparison of the table with genai-prices, which collects prices on its own.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use super::wheel::Wheel;

const GENAI_PRICES: Wheel = Wheel {
    requirement: "genai-prices==0.2.3",
    sha256: "56976ce2b04ec206117f7d0e53f4849211a6724ab3a12119afec304eba63ee25",
    member: "genai_prices/data.py",
};
/// Reader of that file, which is a program that is not run.
const READER: &str = include_str!("second_source.py");
/// Fewest models that both sources have. With fewer, the comparison means nothing.
const MIN_COMPARED: usize = 40;

/// Prints the prices in which the two sources differ, and fails if there are any.
pub(super) fn compare(table: &Value) -> Result<()> {
    let other = read()?;
    let (mut compared, mut differences) = (0, 0);
    let providers = table.get("models").and_then(Value::as_object).context("the table has no models")?;
    for (provider, models) in providers {
        for (id, model) in models.as_object().into_iter().flatten() {
            let Some(theirs) = other.get(provider).and_then(|models| models.get(id)) else { continue };
            compared += 1;
            for (name, ours) in rates_of(model) {
                let theirs = match name.as_str() {
                    "rates" => theirs.get("rates"),
                    tier => theirs.get("tiers").and_then(|tiers| tiers.get(tier)),
                };
                for (class, rate) in theirs.and_then(Value::as_object).into_iter().flatten() {
                    let ours = ours.get(class).unwrap_or(&Value::Null);
                    if ours != rate {
                        differences += 1;
                        println!("{provider} {id} {name} {class}: {ours} here, {rate} there");
                    }
                }
            }
        }
    }
    println!("{compared} models compared, {differences} prices differ");
    anyhow::ensure!(compared >= MIN_COMPARED, "the sources have too few models in common");
    anyhow::ensure!(differences == 0, "look up the prices that differ at the provider");
    Ok(())
}

/// Returns the prices of a model, and those of its tiers by the number of tokens above which they hold.
fn rates_of(model: &Value) -> Vec<(String, Value)> {
    let prices = model.get("prices");
    let rates = |of: &Value| of.get("rates").cloned().unwrap_or_default();
    let base = prices.map(|prices| ("rates".to_owned(), rates(prices)));
    let tiers = prices.and_then(|prices| prices.get("tiers")).and_then(Value::as_array);
    let tier = |tier: &Value| {
        let above = tier.get("above_tokens").and_then(Value::as_u64).unwrap_or_default();
        (above.to_string(), rates(tier))
    };
    base.into_iter().chain(tiers.into_iter().flatten().map(tier)).collect()
}

/// Returns the other source's prices, by provider and model.
fn read() -> Result<Value> {
    let text = GENAI_PRICES.read()?;
    let mut python = Command::new("python3");
    python.args(["-I", "-c", READER]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = python.spawn().context("cannot run python3")?;
    child.stdin.take().context("python3 has no input")?.write_all(&text)?;
    let output = child.wait_with_output()?;
    anyhow::ensure!(output.status.success(), "the other source has another form than expected");
    Ok(serde_json::from_slice(&output.stdout)?)
}
