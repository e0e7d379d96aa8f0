//! Arguments of `rig api-key`.

use clap::{Args, Subcommand};

use crate::complete;

#[derive(Debug, Subcommand)]
pub(crate) enum ApiKeyCommand {
    /// List your API keys
    #[command(visible_alias = "list")]
    Ls,
    /// Create an API key and show its secret once
    #[command(visible_alias = "create")]
    New(NewApiKeyArguments),
    /// Replace an API key's secret and show the new one once
    Rotate {
        /// API key name or id
        #[arg(value_name = "KEY", add = complete::api_keys())]
        id: String,
        /// Seconds for which the old secret stays valid
        #[arg(long, default_value_t = 0)]
        grace_s: u32,
    },
    /// Revoke an API key at once
    #[command(visible_aliases = ["revoke", "delete"])]
    Rm {
        /// API key name or id
        #[arg(value_name = "KEY", add = complete::api_keys())]
        id: String,
    },
}

/// A new API key.
#[derive(Debug, Args)]
pub(crate) struct NewApiKeyArguments {
    /// Name in lists
    pub(crate) name: String,
    /// Expiry: in a while, e.g. 12h or 30d, or at a time, e.g. 2027-01-31T12:00:00Z; never by default
    #[arg(long, visible_alias = "expires-at", value_name = "DURATION|TIME")]
    pub(crate) expires: Option<String>,
    /// Workspace to limit the key to; repeatable
    #[arg(short, long = "workspace", value_name = "WORKSPACE", add = complete::workspaces())]
    pub(crate) workspaces: Vec<String>,
    /// Permissions in these workspaces: `read` (default) or `operate`
    #[arg(long, requires = "workspaces")]
    pub(crate) role: Option<String>,
}
