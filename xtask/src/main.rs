//! `cargo xtask`: everything that is done with a checkout. `up` and `test` are all the set-up there is.

mod bench;
mod build;
mod down;
mod image;
mod place;
mod schemathesis;
mod static_programs;
mod steps;
mod test;
mod up;
mod websocket_clients;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use place::Place;

/// Rigbox's tasks.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing, build, start Rigbox on this machine and run a command in a fresh VM.
    Up {
        #[command(flatten)]
        place: PlaceArguments,
        /// The API listens on this + 70.
        #[arg(long, default_value_t = 7000)]
        port_base: u16,
        /// How VMs reach the outside: by the host's own network (`veth`), or not at all (`none`).
        #[arg(long, default_value = "veth", value_parser = ["veth", "none"])]
        uplink: String,
    },
    /// Stop Rigbox and all its VMs.
    Down {
        #[command(flatten)]
        place: PlaceArguments,
        /// Also delete every workspace and all state.
        #[arg(long)]
        purge: bool,
    },
    /// Install what the tests need and run all of them.
    Test {
        /// Random tests at their full numbers.
        #[arg(long)]
        soak: bool,
        /// Only end-to-end tests whose name contains this.
        filter: Option<String>,
    },
    /// Build a guest image from its recipe in `images/`.
    Image {
        /// Name of the recipe.
        name: String,
    },
    /// Measure Rigbox beside the plain thing that it is made of, on this machine.
    Bench {
        /// What to measure: `spawn` or `api`.
        name: String,
        /// Print one JSON object instead of a table.
        #[arg(long)]
        json: bool,
        /// Rounds of each side; the median counts.
        #[arg(long)]
        rounds: Option<u32>,
    },
    /// Build everything, the guest's static programs included.
    Build,
}

#[derive(clap::Args)]
struct PlaceArguments {
    /// State folder; without it, `.rigbox` in the checkout.
    #[arg(long)]
    state: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    if let Some(compiled) = static_programs::rustc_wrapper() {
        return Ok(compiled);
    }
    let arguments = Arguments::parse();
    std::env::set_current_dir(place::checkout())?;
    match arguments.task {
        Task::Up { place, port_base, uplink } => up::up(&Place::new(place.state)?, port_base, &uplink),
        Task::Down { place, purge } => down::down(&Place::new(place.state)?, purge),
        Task::Test { soak, filter } => test::test(soak, filter.as_deref()),
        Task::Image { name } => {
            build::install_packages(&[rigbox_image::HOST_PACKAGES])?;
            image::build(&name).map(drop)
        }
        Task::Bench { name, json, rounds } => bench::bench(&name, json, rounds),
        Task::Build => build::everything(),
    }?;
    Ok(ExitCode::SUCCESS)
}
