//! `rigbox-bench`: measures Rigbox beside the plain thing that it is made of, both in one run and in turns. `cargo xtask bench`
//! builds what it needs and runs it.

mod api;
mod bare;
mod edge;
mod exec;
mod host;
mod http;
mod installation;
mod memory;
mod report;
mod spawn;
mod workspaces;

use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use nix::sys::signal::{SigSet, Signal};

use installation::Installation;

/// Measures Rigbox beside the plain thing that it is made of.
#[derive(Parser)]
#[command(name = "rigbox-bench")]
struct Arguments {
    /// What to measure.
    name: Name,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Rounds of each side; the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

#[derive(Clone, Copy, ValueEnum)]
enum Name {
    /// From the request to a command's output, commands, their output, disks and memory.
    Spawn,
    /// The list of workspaces over HTTP: how fast, and what guarding it costs.
    Api,
    /// The proxy of apps beside nginx.
    Edge,
    /// A server of `api` (started by it).
    #[value(hide = true)]
    ServeApi,
    /// The server of `edge` (started by it).
    #[value(hide = true)]
    ServeEdge,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match arguments.name {
        Name::Spawn => spawn(&arguments),
        Name::Api => report::print("api", &api::measure(arguments.rounds)?, arguments.json),
        Name::Edge => report::print("edge", &edge::measure(arguments.rounds)?, arguments.json),
        Name::ServeApi => api::serve(),
        Name::ServeEdge => edge::serve(),
    }
}

fn spawn(arguments: &Arguments) -> Result<()> {
    anyhow::ensure!(rustix::process::geteuid().is_root(), "the bench starts Rigbox: run it as root");
    let installation = Arc::new(Installation::new()?);
    clean_up_on_signals(Arc::clone(&installation))?;
    let _cleaned_up = CleanedUp(&installation);
    let measures = spawn::measure(&installation, arguments.rounds);
    let measures = measures.with_context(|| installation.end_of_log())?;
    report::print("spawn", &measures, arguments.json)
}

/// Nothing is left, however the measuring ended.
struct CleanedUp<'a>(&'a Installation);

impl Drop for CleanedUp<'_> {
    fn drop(&mut self) {
        self.0.clean_up();
    }
}

/// To be called while this process has one thread: the others get its mask.
fn clean_up_on_signals(installation: Arc<Installation>) -> Result<()> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals.thread_block()?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        if signals.wait().is_ok() {
            installation.clean_up();
            std::process::exit(130);
        }
    })?;
    Ok(())
}
