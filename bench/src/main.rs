//! `rigbox-bench`: measures Rigbox beside a plain alternative, in turns in one run. `cargo xtask bench` builds what it needs and runs it.

mod ai;
mod api;
mod bare;
mod control_config;
mod edge;
mod exec;
mod host;
mod http;
mod installation;
mod life;
mod memory;
mod namespaces;
mod nginx;
mod role;
mod spawn;
mod ssh;
mod workspace_rows;
mod workspaces;

use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use nix::sys::signal::{SigSet, Signal};
use rigbox_testkit::report::{self, Measure};

use installation::Installation;

/// Measures Rigbox beside a plain alternative.
#[derive(Parser)]
#[command(name = "rigbox-bench")]
struct Arguments {
    /// Benchmark to run.
    name: Name,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Rounds of each side; the result is the median.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Cipher of `ssh`.
    #[arg(long, default_value = ssh::CIPHERS[0], value_parser = ssh::CIPHERS)]
    cipher: String,
    /// Idle sessions of `ssh`.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u16).range(1..))]
    sessions: u16,
    /// Only part of `ai`.
    #[arg(long)]
    part: Option<ai::Part>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Name {
    /// Workspaces: time to a command's output, commands, output, disks and memory.
    Spawn,
    /// List of workspaces over HTTP: throughput, and the cost of authorization.
    Api,
    /// Reverse proxy of apps beside nginx.
    Edge,
    /// Recovery after `kill -9`, cost of reports, and changes of the network policy.
    Life,
    /// SSH gateway beside OpenSSH's `ProxyJump`.
    Ssh,
    /// AI proxy beside LiteLLM's and nginx.
    Ai,
    /// Server of `api`, which starts it.
    #[value(hide = true)]
    ServeApi,
    /// Server of `edge`, which starts it.
    #[value(hide = true)]
    ServeEdge,
    /// Control and node of `life`, which starts them.
    #[value(hide = true)]
    ServeLife,
    /// SSH gateway of `ssh`, which starts it.
    #[value(hide = true)]
    ServeSsh,
    /// Processes of `ai`, which starts them.
    #[value(hide = true)]
    ServeAi,
    /// The benchmark `ai` in namespaces of its own, where that runs it.
    #[value(hide = true)]
    AiInside,
    /// The benchmark `ssh` in namespaces of its own, where that runs it.
    #[value(hide = true)]
    SshInside,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match arguments.name {
        Name::Spawn => spawn(&arguments),
        Name::Api => report::print("api", &api::measure(arguments.rounds)?, arguments.json),
        Name::Edge => report::print("edge", &edge::measure(arguments.rounds)?, arguments.json),
        Name::Life => life(&arguments),
        Name::Ssh => ssh(&arguments),
        Name::Ai => ai(&arguments),
        Name::ServeApi => api::serve(),
        Name::ServeEdge => edge::serve(),
        Name::ServeLife => life::serve(),
        Name::ServeSsh => ssh::serve(),
        Name::ServeAi => ai::serve(),
        Name::SshInside => ssh_inside(&arguments),
        Name::AiInside => {
            report::print("ai", &ai::measure(arguments.rounds, arguments.part)?, arguments.json)
        }
    }
}

fn spawn(arguments: &Arguments) -> Result<()> {
    let measures = with_installation(|installation| spawn::measure(installation, arguments.rounds))?;
    report::print("spawn", &measures, arguments.json)
}

fn life(arguments: &Arguments) -> Result<()> {
    let mut measures = life::measure_records(arguments.rounds)?;
    measures.extend(with_installation(life::measure_policy)?);
    report::print("life", &measures, arguments.json)
}

fn ssh(arguments: &Arguments) -> Result<()> {
    let (rounds, sessions) = (arguments.rounds.to_string(), arguments.sessions.to_string());
    let json = arguments.json.then_some("--json");
    let inside = ["ssh-inside", "--rounds", &rounds, "--cipher", &arguments.cipher, "--sessions", &sessions];
    namespaces::run_inside(inside.into_iter().chain(json))
}

fn ssh_inside(arguments: &Arguments) -> Result<()> {
    let Arguments { rounds, ref cipher, sessions, json, .. } = *arguments;
    let options = ssh::Options { rounds, cipher, sessions: sessions.into() };
    report::print("ssh", &ssh::measure(&options)?, json)
}

fn ai(arguments: &Arguments) -> Result<()> {
    let rounds = arguments.rounds.to_string();
    let json = arguments.json.then_some("--json");
    let part = arguments.part.and_then(|part| part.to_possible_value());
    let part = part.iter().flat_map(|part| ["--part", part.get_name()]);
    namespaces::run_inside(["ai-inside", "--rounds", &rounds].into_iter().chain(json).chain(part))
}

/// Measures with an installation, which is removed afterwards. Must run while there is one thread.
fn with_installation(measure: impl FnOnce(&Installation) -> Result<Vec<Measure>>) -> Result<Vec<Measure>> {
    anyhow::ensure!(rustix::process::geteuid().is_root(), "the benchmark needs root to start Rigbox");
    let installation = Arc::new(Installation::new()?);
    clean_up_on_signals(Arc::clone(&installation))?;
    let _clean_up = CleanUpGuard(&installation);
    measure(&installation).with_context(|| installation.log_tail())
}

/// Guard that removes the installation, however the benchmark ends.
struct CleanUpGuard<'a>(&'a Installation);

impl Drop for CleanUpGuard<'_> {
    fn drop(&mut self) {
        self.0.clean_up();
    }
}

/// Cleans up on signals. Must run while there is one thread, because other threads inherit its mask.
fn clean_up_on_signals(installation: Arc<Installation>) -> Result<()> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals.thread_block()?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        if signals.wait().is_ok() {
            installation.clean_up();
            #[expect(
                clippy::disallowed_methods,
                reason = "everything that a destructor would release has just been removed"
            )]
            std::process::exit(130);
        }
    })?;
    Ok(())
}
