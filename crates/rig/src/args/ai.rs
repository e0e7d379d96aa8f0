//! Arguments of `rig ai` and `rig workspace ai`.

use clap::{Subcommand, ValueEnum};

use crate::complete;

#[derive(Debug, Subcommand)]
pub(crate) enum AiCommand {
    /// Show what is left of your credits for AI calls
    Credits,
    /// Show what AI calls have used, by day and by workspace
    Usage,
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

/// Mode of AI calls, or none of the workspace's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AiModeChoice {
    // Without doc comments, which the help would show beside those of the argument.
    Managed,
    Byok,
    Default,
}
