//! Arguments of `rig secret` and `rig proxy`.

use clap::{Args, Subcommand};

use crate::complete;

#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Credentials that stay outside of workspaces: the proxy adds them to requests for one host
    #[command(subcommand)]
    Proxy(ProxiedSecretCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProxiedSecretCommand {
    /// List your proxied secrets, without their values
    #[command(visible_alias = "list")]
    Ls,
    /// Store a credential from a prompt or stdin, in place of another one of its name
    #[command(visible_alias = "new")]
    Add(AddProxiedSecretArguments),
    /// Remove proxied secrets
    #[command(visible_aliases = ["remove", "delete"])]
    Rm {
        /// Names of proxied secrets
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
}

/// A new proxied secret.
#[derive(Debug, Args)]
pub(crate) struct AddProxiedSecretArguments {
    /// Name, which is part of the address in a workspace
    pub(crate) name: String,
    /// Host that gets it by HTTPS, such as api.example.org
    #[arg(long)]
    pub(crate) host: String,
    /// Header that carries it
    #[arg(long, default_value = "Authorization")]
    pub(crate) header: String,
    /// Text of the header, with {} for the credential [default: `Bearer {}` for Authorization, else `{}`]
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// Workspace name or id that alone may use it; all of yours by default
    #[arg(short, long, add = complete::workspaces())]
    pub(crate) workspace: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProxyCommand {
    /// Switch the proxy on again, as far as the workspace's settings allow
    On(ProxyArguments),
    /// Close the proxy for a workspace: no AI call and no proxied secret passes
    Off(ProxyArguments),
    /// Show if the proxy is on, and with whose keys AI calls are made
    Status(ProxyArguments),
}

/// Workspace whose proxy is meant.
#[derive(Debug, Args)]
pub(crate) struct ProxyArguments {
    /// Workspace name or id; inside a workspace, that workspace by default
    #[arg(short, long, add = complete::workspaces())]
    pub(crate) workspace: Option<String>,
}
