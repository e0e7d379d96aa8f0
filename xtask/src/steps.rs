//! Steps that people watch: each says what it does and how long it took; a failure names the step, the reason and the remedy.

use std::time::Instant;

use anyhow::{Context, Result};

/// Runs one step. `remedy` is what to do when it fails.
pub(crate) fn step<T>(name: &str, remedy: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("==> {name}");
    let started = Instant::now();
    let result = work().with_context(|| format!("the step `{name}` failed; to mend it: {remedy}"))?;
    eprintln!("    {name}: {:.1} s", started.elapsed().as_secs_f64());
    Ok(result)
}
