//! Results of a benchmark, for people and for programs.

use anyhow::Result;
use comfy_table::Table;
use serde::Serialize;

/// Result; `theirs` is that of the alternative, if there is one.
#[derive(Debug, Serialize)]
pub struct Measure {
    name: String,
    ours: f64,
    theirs: Option<f64>,
    ratio: Option<f64>,
    unit: &'static str,
    target: String,
    holds: bool,
}

/// Target of a measure.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// Less than this.
    Below(f64),
    /// This or more.
    AtLeast(f64),
    /// At most this many times theirs.
    AtMostTimes(f64),
    /// Less than theirs and this more.
    BelowTheirsPlus(f64),
    /// At least this many times theirs.
    AtLeastTimes(f64),
}

impl Measure {
    /// Returns a measure and whether it meets its target.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        unit: &'static str,
        ours: f64,
        theirs: Option<f64>,
        target: Target,
    ) -> Self {
        let ratio = theirs.map(|theirs| ours / theirs);
        let (target, holds) = match target {
            Target::Below(limit) => (format!("< {limit} {unit}"), ours < limit),
            Target::AtLeast(limit) => (format!(">= {limit} {unit}"), ours >= limit),
            Target::AtMostTimes(limit) => (format!("<= {limit} x"), ratio.is_some_and(|r| r <= limit)),
            Target::BelowTheirsPlus(limit) => {
                (format!("< theirs + {limit} {unit}"), theirs.is_some_and(|theirs| ours < theirs + limit))
            }
            Target::AtLeastTimes(limit) => (format!(">= {limit} x"), ratio.is_some_and(|r| r >= limit)),
        };
        Self { name: name.into(), ours, theirs, ratio, unit, target, holds }
    }

    /// Returns the result of what succeeded; a failure would have ended the benchmark.
    #[must_use]
    pub fn succeeded(name: impl Into<String>, unit: &'static str, ours: f64, target: &str) -> Self {
        Self {
            name: name.into(),
            ours,
            theirs: None,
            ratio: None,
            unit,
            target: target.to_owned(),
            holds: true,
        }
    }
}

/// Prints the current step on standard error.
pub fn progress(step: &str) {
    eprintln!("==> {step}");
}

#[derive(Serialize)]
struct Document<'a> {
    bench: &'a str,
    cpu: &'a str,
    measures: &'a [Measure],
}

/// Prints all results as a table, or as one JSON object.
pub fn print(bench: &str, measures: &[Measure], json: bool) -> Result<()> {
    let cpu = &cpu();
    if json {
        println!("{}", serde_json::to_string_pretty(&Document { bench, cpu, measures })?);
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["measure", "ours", "theirs", "ratio", "unit", "target", "holds"]);
    let optional = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
    for measure in measures {
        table.add_row([
            measure.name.clone(),
            format!("{:.2}", measure.ours),
            optional(measure.theirs),
            optional(measure.ratio),
            measure.unit.to_owned(),
            measure.target.clone(),
            if measure.holds { "yes" } else { "NO" }.to_owned(),
        ]);
    }
    println!("{table}\n\nmeasured on {cpu}");
    Ok(())
}

/// Returns the number and the model of this machine's CPUs.
fn cpu() -> String {
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    format!("{count} x {}", model.map_or("unknown", |(_, model)| model))
}

/// Returns the median of `values`.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    if values.len() % 2 == 1 { at(middle) } else { (at(middle.wrapping_sub(1)) + at(middle)) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&mut []).is_nan());
    }

    #[test]
    fn targets_are_checked() {
        let holds = |ours, theirs, target| Measure::new("", "", ours, theirs, target).holds;
        assert!(holds(1.0, None, Target::Below(2.0)) && !holds(2.0, None, Target::Below(2.0)));
        assert!(holds(2.0, None, Target::AtLeast(2.0)) && !holds(1.9, None, Target::AtLeast(2.0)));
        assert!(holds(1.3, Some(1.0), Target::AtMostTimes(1.3)));
        assert!(!holds(1.4, Some(1.0), Target::AtMostTimes(1.3)));
        assert!(holds(0.5, Some(1.0), Target::AtLeastTimes(0.5)));
        assert!(!holds(0.4, Some(1.0), Target::AtLeastTimes(0.5)));
        assert!(holds(4.0, Some(3.0), Target::BelowTheirsPlus(2.0)));
        assert!(!holds(5.0, Some(3.0), Target::BelowTheirsPlus(2.0)));
        assert!(!holds(1.0, None, Target::AtLeastTimes(0.5)));
    }
}
