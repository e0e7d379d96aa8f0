//! Benchmarks that need the host under test: `rigbox-tests bench NAME` measures instead of testing.

mod neighbor;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use rigbox_testkit::report;

use crate::harness::installation::Installation;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Measure.
    Bench {
        #[arg(value_enum)]
        name: Name,
        /// Print one JSON object instead of a table.
        #[arg(long)]
        json: bool,
        /// Rounds of each side; the result is the median.
        #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Name {
    /// Times of an honest tenant beside a hostile one, and beside one that merely computes.
    Neighbor,
}

/// Runs the benchmark that the arguments ask for, if they ask for one.
pub(crate) fn main() -> Option<ExitCode> {
    if std::env::args().nth(1).as_deref() != Some("bench") {
        return None;
    }
    let Task::Bench { name, json, rounds } = Arguments::parse().task;
    Some(match measure(name, json, rounds) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the benchmark failed: {error:#}");
            ExitCode::FAILURE
        }
    })
}

fn measure(name: Name, json: bool, rounds: u32) -> Result<()> {
    let Name::Neighbor = name;
    let installation = Installation::open()?;
    let measured = neighbor::measure(&installation, rounds);
    if measured.is_err() {
        eprintln!("end of the installation's log:\n{}", installation.log_tail(60));
    }
    report::print("neighbor", &measured?, json)
}
