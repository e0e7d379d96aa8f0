//! `cargo xtask fuzz`: runs the workspace's fuzz targets with libFuzzer, each for a while, and sums them up in a table.
//!
//! A target is a unit test with `bolero::check!`. An ordinary test run replays its seeds and a few random inputs; here the tests are built
//! once more, with the compiler's coverage counters, and libFuzzer looks for inputs that reach new code.

mod build;
mod run;

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::build::install_packages;
use crate::paths::checkout;
use crate::steps::step;
use build::Target;
use run::Outcome;

/// Debian package with the compiler for libFuzzer, which is C++.
const PACKAGES: &[&str] = &["g++"];

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Targets to run: all whose name contains one of these; without any, all.
    names: Vec<String>,
    /// Minutes for each target.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Targets to run at once.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
}

/// Runs the targets; fails if one found something.
pub(crate) fn fuzz(options: &Options) -> Result<()> {
    anyhow::ensure!(
        options.minutes.is_finite() && options.minutes > 0.0,
        "--minutes must be more than 0; give each target a minute at least"
    );
    install_packages(&[PACKAGES])?;
    let targets = step("build the fuzz targets", "read the compiler's message above", build::targets)?;
    let all = targets.iter().map(|target| target.name.as_str()).collect::<Vec<_>>().join(", ");
    let chosen: Vec<Target> =
        targets.into_iter().filter(|target| is_chosen(target, &options.names)).collect();
    anyhow::ensure!(!chosen.is_empty(), "no fuzz target has such a name; there are {all}");
    let duration = Duration::from_secs_f64(options.minutes * 60.0);
    let outcomes = run_all(&chosen, duration, options.jobs)?;
    print!("{}", run::table(&outcomes));
    let found: Vec<&Outcome> = outcomes.iter().filter(|outcome| !outcome.findings.is_empty()).collect();
    for outcome in &found {
        print!("{}", outcome.remedy());
    }
    anyhow::ensure!(found.is_empty(), "{} of {} fuzz targets found something", found.len(), chosen.len());
    Ok(())
}

fn is_chosen(target: &Target, names: &[String]) -> bool {
    names.is_empty() || names.iter().any(|name| target.name.contains(name.as_str()))
}

/// Runs `jobs` targets at a time. Returns the outcomes in the order of the targets.
fn run_all(targets: &[Target], duration: Duration, jobs: usize) -> Result<Vec<Outcome>> {
    let queue: Mutex<VecDeque<(usize, &Target)>> = Mutex::new(targets.iter().enumerate().collect());
    let done = Mutex::new(Vec::new());
    let work = || {
        // Held for this statement only.
        while let Some((index, target)) = { queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front() }
        {
            eprintln!("==> {}: {:.0} s", target.name, duration.as_secs_f64());
            let outcome = run::run(target, duration).with_context(|| target.name.clone());
            done.lock().unwrap_or_else(PoisonError::into_inner).push((index, outcome));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(work);
        }
    });
    let mut outcomes = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcomes.sort_by_key(|(index, _)| *index);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

/// Returns the folder of everything that fuzzing leaves behind.
fn folder() -> PathBuf {
    checkout().join("target/fuzz")
}

/// Returns the files of a folder, none if there is no such folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
