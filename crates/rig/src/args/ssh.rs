//! Arguments of `rig ssh`.

use clap::{Args, Subcommand};

use super::SshKeyCommand;
use crate::complete;

/// Where to log in, or what to do instead.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    override_usage = "rig ssh [WORKSPACE] [COMMAND...]\n       rig ssh --stdio <WORKSPACE>\n       rig ssh <ls|add|rm|config>"
)]
pub(crate) struct SshArguments {
    #[command(subcommand)]
    pub(crate) command: Option<SshCommand>,
    /// Workspace name or id; the one that runs by default. After `--`, also one with the name of a command below
    #[arg(add = complete::workspaces())]
    pub(crate) workspace: Option<String>,
    /// Carry an SSH connection over the API between stdin and stdout, as a `ProxyCommand`: for networks that let HTTPS alone out
    #[arg(long, requires = "workspace", conflicts_with = "remote")]
    pub(crate) stdio: bool,
    /// Command to run there, in place of a shell
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) remote: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SshCommand {
    #[command(flatten)]
    Keys(SshKeyCommand),
    /// Let `ssh web.rigbox`, editors, rsync and others find your workspaces by name
    Config {
        /// Reach them over the API, by `rig ssh --stdio`
        #[arg(long)]
        stdio: bool,
    },
}
