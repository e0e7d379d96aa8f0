//! Arguments of `rig workspace`.

use clap::{Args, Subcommand, ValueEnum};

use super::ai::WorkspaceAiCommand;
use crate::complete;

#[derive(Debug, Subcommand)]
pub(crate) enum WorkspaceCommand {
    /// Create a workspace, start it, and wait until it is running
    Spawn {
        #[command(flatten)]
        new: NewWorkspaceArguments,
        #[command(flatten)]
        wait: WaitArgument,
    },
    /// Create a workspace without starting it
    #[command(visible_alias = "create")]
    New(NewWorkspaceArguments),
    /// List your workspaces
    #[command(visible_alias = "list")]
    Ls,
    /// Show a workspace
    #[command(visible_aliases = ["get", "inspect"])]
    Show(WorkspaceArgument),
    /// Start workspaces and wait until they are running
    Start {
        #[command(flatten)]
        workspaces: WorkspacesArgument,
        #[command(flatten)]
        wait: WaitArgument,
    },
    /// Shut down workspaces; their disks are kept
    Stop(WorkspacesArgument),
    /// Shut down workspaces and start them again
    Restart {
        #[command(flatten)]
        workspaces: WorkspacesArgument,
        #[command(flatten)]
        wait: WaitArgument,
    },
    /// Remove workspaces and everything in them
    #[command(visible_alias = "delete")]
    Rm {
        #[command(flatten)]
        workspaces: WorkspacesArgument,
        /// Skip the confirmation
        #[arg(short, long)]
        force: bool,
    },
    /// Show workspace events and blocked network requests
    Logs {
        #[command(flatten)]
        workspace: WorkspaceArgument,
        /// Maximum number of lines, up to 1,000
        #[arg(long, default_value_t = 100)]
        lines: u32,
        /// Follow the log
        #[arg(short, long)]
        follow: bool,
    },
    /// Show how to reach a workspace by SSH, or set whether that starts it
    SshInfo(SshInfoArguments),
    /// Show or set what a workspace can reach
    Network(NetworkArguments),
    /// Manage environment variables of a workspace's commands, login shells and services
    #[command(subcommand)]
    Env(EnvCommand),
    /// Manage AI calls of a workspace
    #[command(subcommand)]
    Ai(WorkspaceAiCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum EnvCommand {
    /// List the names; values are never shown
    #[command(visible_alias = "list")]
    Ls(WorkspaceArgument),
    /// Set variables; new processes of a running workspace see them at once
    #[command(
        override_usage = "rig workspace env set <WORKSPACE> <NAME[=VALUE]>...\n       rig workspace env set -n <WORKSPACE> <NAME[=VALUE]>..."
    )]
    Set(EnvArguments),
    /// Remove variables
    #[command(
        visible_alias = "rm",
        override_usage = "rig workspace env unset <WORKSPACE> <NAME>...\n       rig workspace env unset -n <WORKSPACE> <NAME>..."
    )]
    Unset(EnvArguments),
}

/// An existing workspace, and variables.
#[derive(Debug, Args)]
pub(crate) struct EnvArguments {
    /// Workspace name or id, unless given as an option; then NAME=VALUE, or NAME to read the value from a prompt or stdin, which keeps it out
    /// of the shell's history
    #[arg(required = true, value_name = "WORDS")]
    words: Vec<String>,
    /// Workspace name or id
    #[arg(
        short = 'n',
        long = "name",
        visible_short_alias = 'w',
        visible_alias = "workspace",
        value_name = "WORKSPACE",
        add = complete::workspaces()
    )]
    workspace: Option<String>,
}

impl EnvArguments {
    /// Returns the workspace's name or id, and the variables; `None` without variables.
    pub(crate) fn parts(&self) -> Option<(&str, &[String])> {
        let (workspace, variables) = match &self.workspace {
            Some(workspace) => (workspace.as_str(), self.words.as_slice()),
            None => self.words.split_first().map(|(first, rest)| (first.as_str(), rest))?,
        };
        (!variables.is_empty()).then_some((workspace, variables))
    }
}

/// An existing workspace.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct WorkspaceArgument {
    /// Workspace name or id
    #[arg(value_name = "WORKSPACE", add = complete::workspaces())]
    positional: Option<String>,
    /// Workspace name or id, as an option
    #[arg(
        short = 'n',
        long = "name",
        visible_short_alias = 'w',
        visible_alias = "workspace",
        value_name = "WORKSPACE",
        add = complete::workspaces()
    )]
    named: Option<String>,
}

impl WorkspaceArgument {
    pub(crate) fn name_or_id(&self) -> &str {
        self.positional.as_deref().or(self.named.as_deref()).unwrap_or_default()
    }
}

/// A workspace and its SSH settings.
#[derive(Debug, Args)]
pub(crate) struct SshInfoArguments {
    #[command(flatten)]
    pub(crate) workspace: WorkspaceArgument,
    /// Start the workspace when somebody connects while it is stopped, or not
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true")]
    pub(crate) start_on_connect: Option<bool>,
}

/// A workspace and its network.
#[derive(Debug, Args)]
pub(crate) struct NetworkArguments {
    /// Workspace name or id
    #[arg(add = complete::workspaces())]
    pub(crate) workspace: String,
    /// Allow the public internet
    #[arg(long, conflicts_with_all = ["none", "allow"])]
    pub(crate) internet: bool,
    /// Allow nothing
    #[arg(long, conflicts_with = "allow")]
    pub(crate) none: bool,
    /// Allow only these domains (`example.org`, `*.example.org`), at ports 80 and 443 or at one other (`example.org:5432`), and CIDRs;
    /// repeatable
    #[arg(long, value_name = "DOMAIN|CIDR", value_delimiter = ',')]
    pub(crate) allow: Vec<String>,
    /// Allow TLS with an encrypted server name beside an allowed one, as browsers send it
    #[arg(long, requires = "allow")]
    pub(crate) allow_ech: bool,
    /// Let programs in the workspace share its apps with anyone, or only less widely
    #[arg(long, value_name = "any|narrow", value_parser = ["any", "narrow"])]
    pub(crate) apps_from_inside: Option<String>,
}

/// Existing workspaces.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct WorkspacesArgument {
    /// Names or ids of workspaces
    #[arg(value_name = "WORKSPACE", add = complete::workspaces())]
    positional: Vec<String>,
    /// Workspace name or id, as an option; repeatable
    #[arg(
        short = 'n',
        long = "name",
        visible_short_alias = 'w',
        visible_alias = "workspace",
        value_name = "WORKSPACE",
        add = complete::workspaces()
    )]
    named: Vec<String>,
}

impl WorkspacesArgument {
    pub(crate) fn names_or_ids(&self) -> impl Iterator<Item = &str> {
        self.positional.iter().chain(&self.named).map(String::as_str)
    }
}

#[derive(Debug, Args)]
pub(crate) struct WaitArgument {
    /// Wait until commands run, or until all services have started too
    #[arg(long, value_name = "FOR", default_value = "running")]
    pub(crate) wait: Wait,
}

/// State that a started workspace is awaited in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Wait {
    // Without doc comments, which the help would show beside those of the option.
    Running,
    System,
}

/// A new workspace.
#[derive(Debug, Args)]
pub(crate) struct NewWorkspaceArguments {
    /// Name: 1 to 40 characters of a-z, 0-9 and `-`; random by default
    #[arg(value_name = "NAME", conflicts_with = "name")]
    positional: Option<String>,
    /// Name, as an option
    #[arg(short, long)]
    name: Option<String>,
    /// Template to create it from; see `rig template ls`
    #[arg(long, add = complete::templates())]
    pub(crate) template: Option<String>,
    /// Memory in MiB
    #[arg(long = "ram", visible_alias = "ram-mb", value_name = "MIB")]
    pub(crate) ram_mb: Option<u32>,
    /// Number of virtual CPUs
    #[arg(long = "vcpu", visible_alias = "vcpus", value_name = "N")]
    pub(crate) vcpus: Option<u32>,
    /// Disk size in MiB
    #[arg(long = "disk", visible_alias = "disk-mb", value_name = "MIB")]
    pub(crate) disk_mb: Option<u32>,
}

impl NewWorkspaceArguments {
    pub(crate) fn name(&self) -> Option<&str> {
        self.positional.as_deref().or(self.name.as_deref())
    }
}
