//! `rigboxd`: one program in several roles. `up` supervises the roles, `role` runs one of them, and two hidden commands put a VMM into its
//! jail.

mod admin;
mod backup;
mod config;
mod find;
mod guest_program;
mod role;
mod supervisor;
mod tls_files;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use config::{DEFAULT_PATH, Installation, Role};

/// Secrets pass through every role but the node, in buffers of libraries too.
#[global_allocator]
static ALLOCATOR: rigbox_sys::allocator::Wiping = rigbox_sys::allocator::Wiping;

/// Micro-VMs for untrusted code
#[derive(Parser)]
#[command(name = "rigboxd", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run Rigbox on this machine, in the foreground
    Up(ConfigArgument),
    /// Create the administrator and print their API key once
    Bootstrap {
        #[command(flatten)]
        config: ConfigArgument,
        /// Email address of the administrator
        #[arg(long)]
        email: String,
    },
    /// Manage users, keys, sign-in links, the master key, the audit log and backups as root
    #[command(subcommand)]
    Admin(admin::Command),
    /// End all VMs of a stopped installation and unmount its disks
    Purge {
        #[command(flatten)]
        config: ConfigArgument,
        /// Also delete all disks and all state
        #[arg(long)]
        everything: bool,
    },
    /// Run one role (started by `up`)
    #[command(hide = true)]
    Role {
        role: Role,
        #[command(flatten)]
        config: ConfigArgument,
        /// Pid of the supervisor
        #[arg(long)]
        supervisor: i32,
    },
    #[command(hide = true)]
    VmmJail,
    #[command(hide = true)]
    VmmJailInner { plan: String },
}

#[derive(clap::Args)]
struct ConfigArgument {
    /// Configuration file
    #[arg(long = "config", value_name = "FILE", default_value = DEFAULT_PATH)]
    path: PathBuf,
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::VmmJail => Ok(rigbox_node::jail::run_launcher()?),
        Command::VmmJailInner { plan } => {
            rigbox_node::jail::become_vmm(&plan).map(|never| match never {}).map_err(Into::into)
        }
        command => run_with_log(command),
    }
}

fn run_with_log(command: Command) -> Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
    anyhow::ensure!(nix::unistd::geteuid().is_root(), "rigboxd needs root to start VMs");
    match command {
        Command::Up(config) => supervisor::run(&Installation::load(&config.path)?, &config.path),
        Command::Role { role, config, supervisor } => {
            let installation = Installation::load(&config.path)?;
            role::prepare_process()?;
            let bound = role::bind(&installation, role)?;
            role::confine(&installation, role)?;
            role::end_with_supervisor(supervisor)?;
            role::limit_system_calls(role)?;
            role::run(&installation, role, bound)
        }
        Command::Bootstrap { config, email } => {
            let installation = Installation::load(&config.path)?;
            let created = role::as_control(&installation, async |config| {
                rigbox_control::admin::bootstrap(&config, &email).await
            })?;
            println!("{}", created.api_key.reveal());
            Ok(())
        }
        Command::Admin(command) => admin::run(command),
        Command::Purge { config, everything } => {
            let installation = Installation::load(&config.path)?;
            let _lock = role::lock(installation.state())?;
            rigbox_node::purge(&installation.node()?, everything)?;
            if everything {
                std::fs::remove_dir_all(installation.state().join("control"))?;
                backup::restore::forget(installation.state())?;
                std::fs::remove_dir_all(installation.run())?;
            }
            Ok(())
        }
        Command::VmmJail | Command::VmmJailInner { .. } => Ok(()),
    }
}
