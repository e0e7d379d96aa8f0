//! Arguments of `rig ssh-key`, which are also below `rig ssh`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::complete;

#[derive(Debug, Subcommand)]
pub(crate) enum SshKeyCommand {
    /// List your SSH keys
    #[command(visible_alias = "list")]
    Ls,
    /// Register an SSH public key, which opens your workspaces
    #[command(visible_alias = "new")]
    Add(AddSshKeyArguments),
    /// Remove SSH keys; what is open by them ends
    #[command(visible_aliases = ["remove", "delete"])]
    Rm {
        /// Names, ids or fingerprints of SSH keys
        #[arg(value_name = "KEY", required = true, add = complete::ssh_keys())]
        keys: Vec<String>,
    },
}

/// A new SSH key.
#[derive(Debug, Args)]
pub(crate) struct AddSshKeyArguments {
    /// Name in lists; the comment of the key by default
    #[arg(short, long)]
    pub(crate) name: Option<String>,
    /// File of the public key, or `-` for stdin; the one in ~/.ssh by default
    #[arg(short, long)]
    pub(crate) file: Option<PathBuf>,
}
