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

/// Prints the prices in which the two sources differ.
pub(super) fn compare(table: &Value) -> Result<()> {
    let other = read()?;
    let (mut compared, mut differences) = (0, 0);
    for (provider, models) in table["models"].as_object().context("the table has no models")? {
        for (id, model) in models.as_object().into_iter().flatten() {
            let Some(theirs) = other.get(provider).and_then(|models| models.get(id)) else { continue };
            compared += 1;
            let tier = |tier: &Value| (tier["above_tokens"].to_string(), tier["rates"].clone());
            let tiers = model["prices"]["tiers"].as_array().into_iter().flatten().map(tier);
            let base = ("rates".to_owned(), model["prices"]["rates"].clone());
            for (name, ours) in std::iter::once(base).chain(tiers) {
                let theirs = if name == "rates" { &theirs["rates"] } else { &theirs["tiers"][&name] };
                for (class, rate) in theirs.as_object().into_iter().flatten() {
                    if &ours[class] != rate {
                        differences += 1;
                        println!("{provider} {id} {name} {class}: {} here, {rate} there", ours[class]);
                    }
                }
            }
        }
    }
    println!("{compared} models compared, {differences} prices differ");
    anyhow::ensure!(compared >= MIN_COMPARED, "the sources have too few models in common");
    Ok(())
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
