//! `rigboxd`: one program in roles. `up` supervises, `role` is one of the supervised processes, and two hidden commands are steps of a
//! VMM's way into its jail.

mod admin;
mod config;
mod role;
mod supervisor;
mod tls_files;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use config::{DEFAULT_PATH, Installation, Role};

/// Runs untrusted code in micro-VMs.
#[derive(Parser)]
#[command(name = "rigboxd", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run Rigbox on this machine, in the foreground.
    Up(Place),
    /// Create the first user, its administrator, and print an API key once.
    Bootstrap {
        #[command(flatten)]
        place: Place,
        /// The user's e-mail address.
        #[arg(long)]
        email: String,
    },
    /// Users, keys, links, the audit log: whoever is root here may.
    #[command(subcommand)]
    Admin(admin::Command),
    /// End all VMs of an installation that does not run, and unmount its disks.
    Purge {
        #[command(flatten)]
        place: Place,
        /// Also delete every disk and all state.
        #[arg(long)]
        everything: bool,
    },
    /// One role (started by `up`).
    #[command(hide = true)]
    Role {
        role: Role,
        #[command(flatten)]
        place: Place,
        /// Pid of the supervisor.
        #[arg(long)]
        supervisor: i32,
    },
    #[command(hide = true)]
    VmmJail,
    #[command(hide = true)]
    VmmJailInner { plan: String },
}

#[derive(clap::Args)]
struct Place {
    /// The configuration file.
    #[arg(long, default_value = DEFAULT_PATH)]
    config: PathBuf,
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::VmmJail => Ok(rigbox_node::jail::run_launcher()?),
        Command::VmmJailInner { plan } => {
            rigbox_node::jail::become_vmm(&plan).map(|never| match never {}).map_err(Into::into)
        }
        command => main_with_log(command),
    }
}

fn main_with_log(command: Command) -> Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
    anyhow::ensure!(nix::unistd::geteuid().is_root(), "rigboxd has to be started as root: it makes VMs");
    match command {
        Command::Up(place) => supervisor::run(&Installation::load(&place.config)?, &place.config),
        Command::Role { role, place, supervisor } => {
            let installation = Installation::load(&place.config)?;
            let bound = role::bind(&installation, role)?;
            role::enter(&installation, role)?;
            role::end_with(supervisor)?;
            role::run(&installation, role, bound)
        }
        Command::Bootstrap { place, email } => {
            let installation = Installation::load(&place.config)?;
            let made = role::as_control(&installation, async |config| {
                rigbox_control::admin::bootstrap(&config, &email).await
            })?;
            println!("{}", made.api_key.reveal());
            Ok(())
        }
        Command::Admin(command) => admin::run(command),
        Command::Purge { place, everything } => {
            let installation = Installation::load(&place.config)?;
            let _lock = role::lock(installation.state())?;
            rigbox_node::purge(&installation.node()?, everything)?;
            if everything {
                std::fs::remove_dir_all(installation.state().join("control"))?;
                std::fs::remove_dir_all(installation.run())?;
            }
            Ok(())
        }
        Command::VmmJail | Command::VmmJailInner { .. } => Ok(()),
    }
}
