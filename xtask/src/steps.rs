//! Steps of a task: each prints its name and its duration. A failed one names the step, the reason and the remedy.

use std::time::Instant;

use anyhow::{Context, Result};

/// Runs one step. `remedy` tells what to do when it fails.
pub(crate) fn step<T>(name: &str, remedy: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("==> {name}");
    let started = Instant::now();
    let result = work().with_context(|| format!("step `{name}` failed; to fix it: {remedy}"))?;
    eprintln!("    {name}: {:.1} s", started.elapsed().as_secs_f64());
    Ok(result)
}
