//! `rigboxd admin ssh-host-key`: the key by which clients know the SSH gateway.

use anyhow::Result;
use clap::Subcommand;
use rigbox_control::admin::ssh_host_key::{self, HostKeys};

use super::as_control;
use crate::find::ExistingInstallation;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Print the fingerprints of the key in use and of the next one
    Ls(ExistingInstallation),
    /// Make the next key and announce it to clients that connect, or with --now use it
    Rotate {
        #[command(flatten)]
        config: ExistingInstallation,
        /// Use the next key from now on, and forget the current one; without one that was announced, a new one
        #[arg(long)]
        now: bool,
    },
}

pub(super) fn run(command: Command) -> Result<()> {
    match command {
        Command::Ls(config) => {
            print(&as_control(&config, async |control| ssh_host_key::host_keys(&control).await)?);
        }
        Command::Rotate { config, now: false } => {
            print(&as_control(&config, async |control| ssh_host_key::announce_host_key(&control).await)?);
            println!(
                "Clients learn the next key when they connect. Once they have, use it: rigboxd admin ssh-host-key rotate --now"
            );
        }
        Command::Rotate { config, now: true } => {
            let (keys, was_announced) =
                as_control(&config, async |control| ssh_host_key::replace_host_key(&control).await)?;
            print(&keys);
            if was_announced {
                println!(
                    "Clients that have not connected since it was announced will refuse to. They find it at /.well-known/ssh-known-hosts of the API."
                );
            } else {
                println!(
                    "It was not announced, so clients will refuse to connect until they get it from /.well-known/ssh-known-hosts of the API."
                );
            }
        }
    }
    Ok(())
}

fn print(keys: &HostKeys) {
    println!("in use  {}", keys.current);
    if let Some(next) = &keys.next {
        println!("next    {next}");
    }
}
