//! Arguments of `rig ai` and `rig workspace ai`.

use clap::{Args, Subcommand, ValueEnum};

use crate::complete;

#[derive(Debug, Subcommand)]
pub(crate) enum AiCommand {
    /// Show what is left of your credits for AI calls
    Credits,
    /// Show what AI calls have used, by day and by workspace
    Usage,
    /// Show or change AI settings: of a workspace, or of your workspaces without their own
    Config(AiConfigArguments),
}

/// AI settings to change; none: they are shown.
#[derive(Debug, Args)]
pub(crate) struct AiConfigArguments {
    /// Workspace name or id; without it, the settings of your account
    #[arg(add = complete::workspaces())]
    pub(crate) workspace: Option<String>,
    /// The operator's keys for credits, your own key, or the mode of your account
    #[arg(long)]
    pub(crate) mode: Option<AiModeChoice>,
    /// google, openai or anthropic; `default` clears it
    #[arg(long)]
    pub(crate) provider: Option<String>,
    /// Model for agents that read one from the environment; `default` clears it
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// Way of your key: into the workspace's environment, or added to calls outside of it
    #[arg(long)]
    pub(crate) key_delivery: Option<KeyDeliveryChoice>,
    /// Read your key at the provider from a prompt or stdin
    #[arg(long, conflicts_with = "clear_key")]
    pub(crate) key: bool,
    /// Remove your key at the provider
    #[arg(long)]
    pub(crate) clear_key: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum WorkspaceAiCommand {
    /// Show or set with whose keys AI calls are made
    Mode {
        /// Workspace name or id
        #[arg(add = complete::workspaces())]
        workspace: String,
        /// The operator's keys for credits, your own key, or the mode of your account
        mode: Option<AiModeChoice>,
    },
}

/// Way of a user's own key, or none of the workspace's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeyDeliveryChoice {
    // Without doc comments, which the help would show beside those of the argument.
    Env,
    Proxy,
    Default,
}

impl KeyDeliveryChoice {
    /// Returns the way as the API names it; none of its own: `None`.
    pub(crate) fn as_wire(self) -> Option<&'static str> {
        match self {
            Self::Env => Some("env"),
            Self::Proxy => Some("proxy"),
            Self::Default => None,
        }
    }
}

/// Mode of AI calls, or none of the workspace's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AiModeChoice {
    // Without doc comments, which the help would show beside those of the argument.
    Managed,
    Byok,
    Default,
}

impl AiModeChoice {
    /// Returns the mode as the API names it; none of its own: `None`.
    pub(crate) fn as_wire(self) -> Option<&'static str> {
        match self {
            Self::Managed => Some("managed"),
            Self::Byok => Some("byok"),
            Self::Default => None,
        }
    }
}
