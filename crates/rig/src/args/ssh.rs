//! Arguments of `rig ssh`.

use clap::{Args, Subcommand};

use super::SshKeyCommand;
use crate::complete;

/// Where to log in, or what to do instead.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    override_usage = "rig ssh [WORKSPACE] [COMMAND...]\n       rig ssh <ls|add|rm|config>"
)]
pub(crate) struct SshArguments {
    #[command(subcommand)]
    pub(crate) command: Option<SshCommand>,
    /// Workspace name or id; the one that runs by default. After `--`, also one with the name of a command below
    #[arg(add = complete::workspaces())]
    pub(crate) workspace: Option<String>,
    /// Command to run there, in place of a shell
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) remote: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SshCommand {
    #[command(flatten)]
    Keys(SshKeyCommand),
    /// Let `ssh web.rigbox`, editors, rsync and others find your workspaces by name
    Config,
}
