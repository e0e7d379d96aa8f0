//! `cargo xtask`: all tasks of a checkout. `up` and `test` install what they need themselves.

mod agents;
mod ai_fields;
mod ai_prices;
mod bench;
mod build;
mod client_tools;
mod command;
mod down;
mod fuzz;
mod image;
mod installation;
mod installed;
mod openssh_server;
mod paths;
mod python_packages;
mod ssh_keys;
mod static_programs;
mod steps;
mod test;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use installation::Installation;

/// Rigbox's tasks.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing, build, start Rigbox on this machine and run a command in a new VM.
    Up {
        #[command(flatten)]
        state: StateFolder,
        /// Base of the ports: the API listens on this + 70, apps on this + 80, SSH on this + 22.
        #[arg(long, default_value_t = 7000)]
        port_base: u16,
        /// Network access of VMs: through the host's network (`veth`), or none.
        #[arg(long, default_value = "veth", value_parser = ["veth", "none"])]
        uplink: String,
        /// Folder for a link to `rig`, such as one in your PATH.
        #[arg(long, value_name = "FOLDER")]
        bin_dir: Option<PathBuf>,
        /// Public SSH key to register. Without it, those in ~/.ssh are asked about, at a terminal.
        #[arg(long = "ssh-key", value_name = "FILE")]
        ssh_keys: Vec<PathBuf>,
    },
    /// Stop Rigbox and all its VMs.
    Down {
        #[command(flatten)]
        state: StateFolder,
        /// Also delete every workspace and all state.
        #[arg(long)]
        purge: bool,
    },
    /// Run formatting, lints, unit tests and end-to-end tests.
    Test(test::Options),
    /// Run fuzz targets with libFuzzer, and print what each has reached and found.
    Fuzz(fuzz::Options),
    /// Build a guest image from its recipe in `images/`.
    Image {
        /// Name of the recipe.
        name: String,
    },
    /// Measure Rigbox beside a plain alternative on this machine.
    Bench {
        /// Benchmark to run: `spawn`, `neighbor`, `life`, `api`, `edge`, `ssh` or `ai`.
        name: String,
        /// Print one JSON object instead of a table.
        #[arg(long)]
        json: bool,
        /// Rounds of each side; the result is the median. 9 by default for `neighbor`, else 5.
        #[arg(long)]
        rounds: Option<u32>,
        /// More arguments for the benchmark; `--help` lists them.
        #[arg(last = true)]
        more: Vec<String>,
    },
    /// Run all coding agents in workspaces, and write what holds into docs/agents.md.
    Agents {
        /// Run only those whose name contains this; the table keeps what it has of the others.
        name: Option<String>,
        /// Run them only in the cases whose name contains this.
        #[arg(requires = "name")]
        case: Option<String>,
    },
    /// Build all programs, those for VMs included.
    Build,
    /// Compare the AI proxy's tables of fields with the types of the providers' SDKs, and list fields without a row.
    AiFields {
        /// Take the newest SDKs, and not those that are pinned.
        #[arg(long)]
        newest: bool,
    },
    /// Write the table of AI prices from the data of a pinned LiteLLM release.
    AiPrices {
        /// Only compare the table with a second source.
        #[arg(long)]
        check: bool,
    },
}

#[derive(clap::Args)]
struct StateFolder {
    /// State folder, by default `.rigbox` in the checkout.
    #[arg(long)]
    state: Option<PathBuf>,
}

impl StateFolder {
    fn installation(self) -> Result<Installation> {
        Installation::new(self.state)
    }
}

fn main() -> Result<ExitCode> {
    if let Some(compiled) = static_programs::rustc_wrapper() {
        return Ok(compiled);
    }
    let arguments = Arguments::parse();
    std::env::set_current_dir(paths::checkout())?;
    match arguments.task {
        Task::Up { state, port_base, uplink, bin_dir, ssh_keys } => {
            up::up(&state.installation()?, port_base, &uplink, bin_dir.as_deref(), &ssh_keys)
        }
        Task::Down { state, purge } => down::down(&state.installation()?, purge),
        Task::Test(options) => test::test(&options),
        Task::Fuzz(options) => fuzz::fuzz(&options),
        Task::Image { name } => {
            build::install_packages(&[&rigbox_image::host_packages()])?;
            image::build(&name).map(drop)
        }
        Task::Bench { name, json, rounds, more } => bench::bench(&name, json, rounds, &more),
        Task::Agents { name, case } => agents::agents(name.as_deref(), case.as_deref()),
        Task::Build => build::programs(),
        Task::AiFields { newest } => ai_fields::ai_fields(newest),
        Task::AiPrices { check } => ai_prices::ai_prices(check),
    }?;
    Ok(ExitCode::SUCCESS)
}
