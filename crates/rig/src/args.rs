//! The command line as types. Checks that need the server are made elsewhere.

mod ai;
mod api_key;
mod app;
pub(crate) mod duration;
mod exec;
mod secret;
mod ssh;
mod ssh_key;
pub(crate) mod tip;
mod workspace;

use clap::{Parser, Subcommand};
use clap_complete::Shell;

pub(crate) use ai::{AiCommand, AiConfigArguments, WorkspaceAiCommand};
pub(crate) use api_key::{ApiKeyCommand, NewApiKeyArguments};
pub(crate) use app::{AppCommand, NewAppArguments, ParamCommand, ShareArguments};
pub(crate) use exec::ExecArguments;
pub(crate) use secret::{
    AddProxiedSecretArguments, ProxiedSecretCommand, ProxyArguments, ProxyCommand, SecretCommand,
};
pub(crate) use ssh::{SshArguments, SshCommand};
pub(crate) use ssh_key::{AddSshKeyArguments, SshKeyCommand};
pub(crate) use workspace::{
    EnvArguments, EnvCommand, NetworkArguments, NewWorkspaceArguments, SshInfoArguments, Wait,
    WorkspaceCommand, WorkspacesArgument,
};

use crate::complete;
use crate::output::Format;

/// Environment and examples, shown below the commands.
const ENVIRONMENT: &str = "\
Environment:
  RIG_API_URL    URL of the server, e.g. http://localhost:7070; else that of `rig login`
  RIG_API_KEY    API key; else that of `rig login`
  SSL_CERT_FILE  Certificates to trust in addition to the system's

Examples:
  rig workspace spawn -n web
  rig exec -it web -- bash
  rig cp ./site web:site
  rig app new my-page --port 8000 -w web --command 'python3 -m http.server 8000'
  rig app share my-page --with ada@example.org";

/// Micro-VMs for untrusted code
#[derive(Debug, Parser)]
#[command(name = "rig", version, arg_required_else_help = true, after_help = ENVIRONMENT)]
pub(crate) struct Arguments {
    /// Output format: tables for people, or one JSON object per line for programs
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    pub(crate) output: Format,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create, list, start, stop and remove workspaces
    #[command(visible_alias = "ws", subcommand)]
    Workspace(WorkspaceCommand),
    /// Publish workspace ports as URLs and control who can open them
    #[command(subcommand)]
    App(AppCommand),
    /// Run a command in a workspace
    Exec(ExecArguments),
    /// Copy files and directories to or from a workspace
    #[command(
        override_usage = "rig cp [-u USER] <SOURCE> <WORKSPACE:PATH>\n       rig cp [-u USER] <WORKSPACE:PATH> <TARGET>"
    )]
    Cp {
        /// Local path, or WORKSPACE:PATH; a relative path there starts at the user's home
        source: String,
        /// Local path, or WORKSPACE:PATH; a directory that exists gets the copy inside it
        target: String,
        /// User to read or write as: `developer` (default) or `root`
        #[arg(short, long)]
        user: Option<String>,
    },
    /// List commands of a workspace: those that run, and those that ran in the background
    Ps {
        /// Workspace name or id
        #[arg(add = complete::workspaces())]
        workspace: String,
    },
    /// Show the output of a background command until it ends; Ctrl-C leaves it running
    Attach {
        /// Workspace name or id
        #[arg(add = complete::workspaces())]
        workspace: String,
        /// Id of the command; see `rig ps`
        id: String,
    },
    /// Send a signal to a command
    Kill {
        /// Workspace name or id
        #[arg(add = complete::workspaces())]
        workspace: String,
        /// Id of the command; see `rig ps`
        id: String,
        /// Name of the signal
        #[arg(short, long, default_value = "TERM")]
        signal: String,
    },
    /// Log in: approve this machine in a browser and save its API key
    Login,
    /// Delete this machine's API key, and revoke it if `rig login` created it
    Logout,
    /// Show your account, or the workspace this runs in
    Whoami,
    /// Show server status
    Status,
    /// Show your limits and current usage
    Limits,
    /// Show credits and usage of AI calls
    #[command(subcommand)]
    Ai(AiCommand),
    /// Switch the proxy for AI calls and proxied secrets of a workspace
    #[command(subcommand)]
    Proxy(ProxyCommand),
    /// Store credentials that no workspace gets to see
    #[command(subcommand)]
    Secret(SecretCommand),
    /// Create, list, rotate and revoke API keys
    #[command(subcommand)]
    ApiKey(ApiKeyCommand),
    /// List, register and remove SSH keys
    #[command(subcommand)]
    SshKey(SshKeyCommand),
    /// Log in to a workspace by SSH, or manage SSH keys
    Ssh(SshArguments),
    /// Show what was done with your API keys, newest first
    Audit {
        /// Maximum number of entries, up to 1,000
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Show the templates that workspaces are created from
    #[command(subcommand)]
    Template(TemplateCommand),
    /// Diagnose the installation
    Doctor,
    /// Print a shell completion script
    Completion {
        /// Shell to complete in
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TemplateCommand {
    /// List the templates
    #[command(visible_alias = "list")]
    Ls,
}

/// Parses `NAME=VALUE`.
fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

/// Returns whether invalid arguments are those of `rig exec`.
pub(crate) fn is_exec(arguments: impl Iterator<Item = String>) -> bool {
    first_word(arguments).as_deref() == Some("exec")
}

/// Returns the first word after the options.
fn first_word(arguments: impl Iterator<Item = String>) -> Option<String> {
    let mut arguments = arguments.skip_while(|argument| argument.starts_with("--output="));
    match arguments.next() {
        Some(option) if option == "--output" => arguments.nth(1),
        first => first,
    }
}

/// Returns the output format that invalid arguments ask for.
pub(crate) fn format_of(arguments: impl Iterator<Item = String>) -> Format {
    let mut arguments = arguments.take_while(|argument| argument != "--");
    while let Some(argument) = arguments.next() {
        let value = match argument.as_str() {
            "--output" => arguments.next(),
            other => other.strip_prefix("--output=").map(str::to_owned),
        };
        if value.as_deref() == Some("json") {
            return Format::Json;
        }
    }
    Format::Text
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn definition_is_valid() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn workspace_is_named_by_position_or_option_and_never_by_both() {
        for line in ["web", "-n web", "-w web", "--name web", "--workspace web"] {
            let parsed = parse(&format!("rig workspace start {line}")).unwrap();
            let Command::Workspace(WorkspaceCommand::Start { workspaces, wait }) = parsed.command else {
                panic!("{line}")
            };
            assert_eq!(workspaces.names_or_ids().collect::<Vec<_>>(), ["web"], "{line}");
            assert_eq!(wait.wait, Wait::Running);
        }
        assert!(parse("rig workspace start").is_err());
        assert!(parse("rig workspace start web -n web").is_err());
        assert!(parse("rig workspace spawn web -n web").is_err());
    }

    #[test]
    fn variables_follow_the_workspace_or_stand_alone() {
        for (line, wanted) in [
            ("web A=b C", Some(("web", vec!["A=b", "C"]))),
            ("-n web A=b", Some(("web", vec!["A=b"]))),
            ("A=b -w web", Some(("web", vec!["A=b"]))),
            ("web", None),
        ] {
            let parsed = parse(&format!("rig workspace env set {line}")).unwrap();
            let Command::Workspace(WorkspaceCommand::Env(EnvCommand::Set(arguments))) = parsed.command else {
                panic!("{line}")
            };
            let parts = arguments
                .parts()
                .map(|(workspace, words)| (workspace, words.iter().map(String::as_str).collect()));
            assert_eq!(parts, wanted, "{line}");
        }
        assert!(parse("rig workspace env set").is_err());
    }

    #[test]
    fn options_after_the_dashes_belong_to_the_command() {
        let parsed = parse("rig exec -it -u root -e A=b=c web -- ls --output json -n x").unwrap();
        assert_eq!(parsed.output, Format::Text);
        let Command::Exec(exec) = parsed.command else { panic!() };
        assert!(exec.interactive && exec.tty);
        assert_eq!(exec.env, [("A".to_owned(), "b=c".to_owned())]);
        assert_eq!(exec.command, ["ls", "--output", "json", "-n", "x"]);
        assert!(parse("rig exec web").is_err());
        assert!(parse("rig exec web ls").is_err());
        assert!(parse("rig exec -e A web -- ls").is_err());
    }

    #[test]
    fn invalid_exec_is_recognized() {
        for (line, expected) in [
            ("exec web ls", true),
            ("--output json exec web", true),
            ("--output=json exec", true),
            ("workspace exec", false),
            ("", false),
        ] {
            assert_eq!(is_exec(line.split_whitespace().map(str::to_owned)), expected, "{line}");
        }
    }

    #[test]
    fn format_is_found_in_invalid_arguments() {
        for (line, format) in [
            ("workspace frobnicate --output json", Format::Json),
            ("--output=json nonsense", Format::Json),
            ("--output text nonsense", Format::Text),
            ("exec -- --output json", Format::Text),
        ] {
            assert_eq!(format_of(line.split_whitespace().map(str::to_owned)), format, "{line}");
        }
    }
}
