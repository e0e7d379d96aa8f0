//! Arguments of `rig app`.

use clap::{ArgGroup, Args, Subcommand};

use super::variable;
use crate::complete;

#[derive(Debug, Subcommand)]
pub(crate) enum AppCommand {
    /// List your apps
    #[command(visible_alias = "list")]
    Ls {
        /// List only apps of this workspace
        #[arg(short, long, add = complete::workspaces())]
        workspace: Option<String>,
    },
    /// Show an app
    #[command(visible_aliases = ["get", "inspect"])]
    Show {
        /// App name or id
        #[arg(add = complete::apps())]
        app: String,
    },
    /// Publish a port as an app; it starts private
    #[command(visible_alias = "create")]
    New(NewAppArguments),
    /// Have an app's service run what listens on its port now, so that it starts with the workspace
    Wrap {
        /// App name or id
        #[arg(add = complete::apps())]
        app: String,
    },
    /// Have an app's service run a command, now and whenever the workspace starts
    Command {
        /// App name or id
        #[arg(add = complete::apps())]
        app: String,
        #[command(flatten)]
        command: CommandArguments,
    },
    /// Serve an app again and start its service
    Start {
        /// App name or id
        #[arg(add = complete::apps())]
        app: String,
    },
    /// Stop serving an app and stop its service
    Stop {
        /// App name or id
        #[arg(add = complete::apps())]
        app: String,
    },
    /// Restart an app's service
    Restart {
        /// App name or id
        #[arg(add = complete::apps())]
        app: String,
    },
    /// Delete an app; its workspace is kept
    #[command(visible_alias = "delete")]
    Rm {
        /// App name or id
        #[arg(add = complete::apps())]
        app: String,
        /// Skip the confirmation
        #[arg(short, long)]
        force: bool,
    },
    /// Show the log of an app's service
    Logs {
        /// App name or id
        #[arg(add = complete::apps())]
        app: String,
        /// Maximum number of lines, up to 1,000
        #[arg(long, default_value_t = 100)]
        lines: u32,
        /// Follow the log
        #[arg(short, long)]
        follow: bool,
    },
    /// Set who can open an app, from the next request on
    Share(ShareArguments),
    /// Print an app's URL
    #[command(visible_alias = "url")]
    Open {
        /// App name or id
        #[arg(add = complete::apps())]
        app: String,
    },
    /// Show whether an app is listening, and its service's status
    Health {
        /// App name or id
        #[arg(add = complete::apps())]
        app: String,
    },
    /// Set, show or remove an app's custom domain
    Domain {
        /// App name or id
        #[arg(add = complete::apps())]
        app: String,
        /// Domain, e.g. shop.example.org; without it, show the current one
        domain: Option<String>,
        /// Remove the custom domain
        #[arg(long, conflicts_with = "domain")]
        remove: bool,
    },
    /// Check the DNS record that proves you own an app's custom domain
    VerifyDomain {
        /// App name or id
        #[arg(add = complete::apps())]
        app: String,
    },
    /// Manage environment variables of an app's service
    #[command(subcommand)]
    Param(ParamCommand),
}

/// A new app.
#[derive(Debug, Args)]
pub(crate) struct NewAppArguments {
    /// Name: 3 to 40 characters of a-z, 0-9 and `-`, unique in the installation; it becomes part of the URL
    pub(crate) name: String,
    /// Port that the app listens on in the workspace
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: u16,
    /// Workspace name or id; inside a workspace, that workspace by default
    #[arg(short, long, add = complete::workspaces())]
    pub(crate) workspace: Option<String>,
    /// Description for people
    #[arg(long)]
    pub(crate) description: Option<String>,
    /// Command line that runs the app, now and whenever the workspace starts
    #[arg(long, value_name = "COMMAND LINE")]
    pub(crate) command: Option<String>,
    /// Working directory of the command, an absolute path; the user's home by default
    #[arg(long, requires = "command")]
    pub(crate) cwd: Option<String>,
    /// Environment variable of the command; repeatable
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = variable, requires = "command")]
    pub(crate) env: Vec<(String, String)>,
}

/// Command of an app's service.
#[derive(Debug, Args)]
pub(crate) struct CommandArguments {
    /// Command line
    #[arg(value_name = "COMMAND LINE")]
    pub(crate) command: String,
    /// Working directory, an absolute path; the user's home by default
    #[arg(long)]
    pub(crate) cwd: Option<String>,
    /// Environment variable; repeatable
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) env: Vec<(String, String)>,
}

/// An app and its audience.
#[derive(Debug, Args)]
#[group(skip)]
#[command(group(ArgGroup::new("audience").required(true).args(["public", "private", "with", "add", "remove"])))]
pub(crate) struct ShareArguments {
    /// App name or id
    #[arg(add = complete::apps())]
    pub(crate) app: String,
    /// Let everyone open it
    #[arg(long)]
    pub(crate) public: bool,
    /// Let only you open it
    #[arg(long)]
    pub(crate) private: bool,
    /// Let only you and users with these email addresses open it; repeatable
    #[arg(long, value_name = "EMAIL", value_delimiter = ',')]
    pub(crate) with: Vec<String>,
    /// Let this user open it too; repeatable
    #[arg(long, value_name = "EMAIL", value_delimiter = ',')]
    pub(crate) add: Vec<String>,
    /// No longer let this user open it; repeatable
    #[arg(long, value_name = "EMAIL", value_delimiter = ',')]
    pub(crate) remove: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ParamCommand {
    /// List the variables
    #[command(visible_alias = "list")]
    Ls {
        /// App name or id
        #[arg(add = complete::apps())]
        app: String,
    },
    /// Set variables; the service sees them after its next start
    Set {
        /// App name or id
        #[arg(add = complete::apps())]
        app: String,
        /// Variables and their values
        #[arg(required = true, value_name = "NAME=VALUE", value_parser = variable)]
        params: Vec<(String, String)>,
    },
    /// Remove variables
    #[command(visible_alias = "rm")]
    Unset {
        /// App name or id
        #[arg(add = complete::apps())]
        app: String,
        /// Names of the variables
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}
