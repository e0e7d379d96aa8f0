//! Arguments of `rig api-key`.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum ApiKeyCommand {
    /// List your API keys
    #[command(visible_alias = "list")]
    Ls,
    /// Create an API key and show its secret once
    New(NewApiKeyArguments),
    /// Replace an API key's secret and show the new one once
    Rotate {
        /// API key id
        id: String,
        /// Seconds for which the old secret stays valid
        #[arg(long, default_value_t = 0)]
        grace_s: u32,
    },
    /// Revoke an API key at once
    #[command(visible_alias = "revoke")]
    Rm {
        /// API key id
        id: String,
    },
}

/// A new API key.
#[derive(Debug, Args)]
pub(crate) struct NewApiKeyArguments {
    /// Name in lists
    pub(crate) name: String,
    /// Expiry, e.g. 2027-01-31T12:00:00Z; never by default
    #[arg(long, value_name = "TIME")]
    pub(crate) expires_at: Option<String>,
    /// Workspace to limit the key to; repeatable
    #[arg(short, long = "workspace", value_name = "WORKSPACE")]
    pub(crate) workspaces: Vec<String>,
    /// Permissions in these workspaces: `read` (default) or `operate`
    #[arg(long, requires = "workspaces")]
    pub(crate) role: Option<String>,
}
