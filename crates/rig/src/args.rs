//! The command line as types: what may be said, in which words. Checks that need the server are made elsewhere.

use clap::{ArgGroup, Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::output::Format;

/// Micro-VMs to run untrusted code in
#[derive(Debug, Parser)]
#[command(name = "rig", version, arg_required_else_help = true)]
pub(crate) struct Arguments {
    /// Tables for people, or one JSON object per line for programs
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    pub(crate) output: Format,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make, list, start, stop and remove workspaces
    #[command(visible_alias = "ws", subcommand)]
    Workspace(WorkspaceCommand),
    /// Give ports of workspaces a name in the world, and say who may see them
    #[command(subcommand)]
    App(AppCommand),
    /// Run a command in a workspace
    Exec(ExecArguments),
    /// Get a key for this machine: you approve it in a browser
    Login,
    /// Forget this machine's key, and end it if `rig login` made it
    Logout,
    /// Say who you are to the server; inside a workspace, which one it is
    Whoami,
    /// Say how the server is
    Status,
    /// Show your limits and what you use of them
    Limits,
    /// Make, list, replace and revoke API keys
    #[command(subcommand)]
    ApiKey(ApiKeyCommand),
    /// Show what was done with your keys, newest first
    Audit {
        /// At most so many entries, up to 1,000
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// What workspaces can be made from
    #[command(subcommand)]
    Template(TemplateCommand),
    /// Find what is wrong with the installation, and how to mend it
    Doctor,
    /// Print a script that completes `rig` in your shell
    Completion {
        /// Which shell
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum WorkspaceCommand {
    /// Make a workspace, start it, and wait until it runs
    Spawn(NewArguments),
    /// Make a workspace without starting it
    New(NewArguments),
    /// List your workspaces
    #[command(visible_alias = "list")]
    Ls,
    /// Start a workspace and wait until it runs
    Start(Which),
    /// Shut a workspace down; its disk is kept
    Stop(Which),
    /// Shut a workspace down and start it again
    Restart(Which),
    /// Remove a workspace and everything in it
    Rm {
        #[command(flatten)]
        which: Which,
        /// Do not ask
        #[arg(short, long)]
        force: bool,
    },
    /// Show what has become of a workspace, and what its network refused it
    Logs {
        #[command(flatten)]
        which: Which,
        /// At most so many lines, up to 1,000
        #[arg(long, default_value_t = 100)]
        lines: u32,
        /// Go on as it is written
        #[arg(short, long)]
        follow: bool,
    },
    /// Environment variables of a workspace: for its commands, login shells and services
    #[command(subcommand)]
    Env(EnvCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum EnvCommand {
    /// List the names; values are never shown
    #[command(visible_alias = "list")]
    Ls(Which),
    /// Set variables; a running workspace has them at once
    #[command(
        override_usage = "rig workspace env set <WORKSPACE> <NAME[=VALUE]>...\n       rig workspace env set -n <WORKSPACE> <NAME[=VALUE]>..."
    )]
    Set(OfWorkspace),
    /// Remove variables
    #[command(
        visible_alias = "rm",
        override_usage = "rig workspace env unset <WORKSPACE> <NAME>...\n       rig workspace env unset -n <WORKSPACE> <NAME>..."
    )]
    Unset(OfWorkspace),
}

/// A workspace that exists, and words about it.
#[derive(Debug, Args)]
pub(crate) struct OfWorkspace {
    /// Name or id of the workspace, unless it is given as an option; then NAME=VALUE, or NAME alone to be asked for the value (or to have it
    /// read from stdin), so that it stands in no history
    #[arg(required = true, value_name = "WORDS")]
    words: Vec<String>,
    /// Name or id of the workspace
    #[arg(
        short = 'n',
        long = "name",
        visible_short_alias = 'w',
        visible_alias = "workspace",
        value_name = "WORKSPACE"
    )]
    named: Option<String>,
}

impl OfWorkspace {
    /// Name or id of the workspace, and the words; `None` when there are none.
    pub(crate) fn parts(&self) -> Option<(&str, &[String])> {
        let (workspace, words) = match &self.named {
            Some(named) => (named.as_str(), self.words.as_slice()),
            None => self.words.split_first().map(|(first, rest)| (first.as_str(), rest))?,
        };
        (!words.is_empty()).then_some((workspace, words))
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum AppCommand {
    /// List your apps
    #[command(visible_alias = "list")]
    Ls {
        /// Only those of this workspace
        #[arg(short, long)]
        workspace: Option<String>,
    },
    /// Make an app of a port; you alone see it at first
    New(NewAppArguments),
    /// Have requests go to an app again, and start its service
    Start {
        /// Name or id of the app
        app: String,
    },
    /// Have no request go to an app, and stop its service
    Stop {
        /// Name or id of the app
        app: String,
    },
    /// Start an app's service anew
    Restart {
        /// Name or id of the app
        app: String,
    },
    /// Delete an app; its workspace stays
    Rm {
        /// Name or id of the app
        app: String,
    },
    /// Show the log of an app's service
    Logs {
        /// Name or id of the app
        app: String,
        /// At most so many lines, up to 1,000
        #[arg(long, default_value_t = 100)]
        lines: u32,
        /// Go on as it is written
        #[arg(short, long)]
        follow: bool,
    },
    /// Say who may see an app; it counts from the next request
    Share(ShareArguments),
    /// Print an app's URL
    #[command(visible_alias = "url")]
    Open {
        /// Name or id of the app
        app: String,
    },
    /// Say whether an app listens, and how its service is
    Health {
        /// Name or id of the app
        app: String,
    },
    /// Look whether an app's own domain has the DNS record that shows it is yours
    VerifyDomain {
        /// Name or id of the app
        app: String,
    },
    /// Environment variables of an app's service
    #[command(subcommand)]
    Param(ParamCommand),
}

/// An app that is to be made.
#[derive(Debug, Args)]
pub(crate) struct NewAppArguments {
    /// Its name: 3 to 40 characters of a-z, 0-9 and `-`; it becomes part of its URL
    pub(crate) name: String,
    /// Where it listens in the workspace
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: u16,
    /// Name or id of the workspace; inside one, that one when left out
    #[arg(short, long)]
    pub(crate) workspace: Option<String>,
    /// What it is, for people
    #[arg(long)]
    pub(crate) description: Option<String>,
}

/// Who may see an app.
#[derive(Debug, Args)]
#[group(skip)]
#[command(group(ArgGroup::new("audience").required(true).args(["public", "private", "with"])))]
pub(crate) struct ShareArguments {
    /// Name or id of the app
    pub(crate) app: String,
    /// Everybody
    #[arg(long)]
    pub(crate) public: bool,
    /// You alone
    #[arg(long)]
    pub(crate) private: bool,
    /// You and users with these e-mail addresses; may be given more than once
    #[arg(long, value_name = "EMAIL", value_delimiter = ',')]
    pub(crate) with: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ParamCommand {
    /// List them
    #[command(visible_alias = "list")]
    Ls {
        /// Name or id of the app
        app: String,
    },
    /// Set some; the service has them when it starts next
    Set {
        /// Name or id of the app
        app: String,
        /// Which, and their values
        #[arg(required = true, value_name = "NAME=VALUE", value_parser = variable)]
        params: Vec<(String, String)>,
    },
    /// Remove some
    #[command(visible_alias = "rm")]
    Unset {
        /// Name or id of the app
        app: String,
        /// Which
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ApiKeyCommand {
    /// List your keys
    #[command(visible_alias = "list")]
    Ls,
    /// Make a key and show its secret, this once
    New(NewKeyArguments),
    /// Give a key another secret and show it, this once
    Rotate {
        /// The key's id
        id: String,
        /// For how long the old secret is still good, in seconds
        #[arg(long, default_value_t = 0)]
        grace_s: u32,
    },
    /// End a key at once
    #[command(visible_alias = "revoke")]
    Rm {
        /// The key's id
        id: String,
    },
}

/// A key that is to be made.
#[derive(Debug, Args)]
pub(crate) struct NewKeyArguments {
    /// What it is listed as
    pub(crate) name: String,
    /// When it ends, e.g. 2027-01-31T12:00:00Z; never when left out
    #[arg(long, value_name = "TIME")]
    pub(crate) expires_at: Option<String>,
    /// A workspace that it is limited to; may be given more than once
    #[arg(short, long = "workspace", value_name = "WORKSPACE")]
    pub(crate) workspaces: Vec<String>,
    /// What it may do there: `read` or `operate`
    #[arg(long, requires = "workspaces")]
    pub(crate) role: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TemplateCommand {
    /// List the templates
    #[command(visible_alias = "list")]
    Ls,
}

/// A workspace that exists.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Which {
    /// Name or id of the workspace
    #[arg(value_name = "WORKSPACE")]
    positional: Option<String>,
    /// The same, as an option
    #[arg(
        short = 'n',
        long = "name",
        visible_short_alias = 'w',
        visible_alias = "workspace",
        value_name = "WORKSPACE"
    )]
    named: Option<String>,
}

impl Which {
    /// Name or id, as it was given.
    pub(crate) fn text(&self) -> &str {
        self.positional.as_deref().or(self.named.as_deref()).unwrap_or_default()
    }
}

/// A workspace that is to be made.
#[derive(Debug, Args)]
pub(crate) struct NewArguments {
    /// Its name: 1 to 40 characters of a-z, 0-9 and `-`; made up when left out
    #[arg(value_name = "NAME", conflicts_with = "name")]
    positional: Option<String>,
    /// The same, as an option
    #[arg(short, long)]
    name: Option<String>,
    /// What to make it from; `rig template ls` lists the templates
    #[arg(long)]
    pub(crate) template: Option<String>,
    /// Memory in MiB
    #[arg(long)]
    pub(crate) ram_mb: Option<u32>,
    /// Processors
    #[arg(long)]
    pub(crate) vcpus: Option<u32>,
    /// Disk in MiB
    #[arg(long)]
    pub(crate) disk_mb: Option<u32>,
}

impl NewArguments {
    pub(crate) fn name(&self) -> Option<&str> {
        self.positional.as_deref().or(self.name.as_deref())
    }
}

/// `rig exec`.
#[derive(Debug, Args)]
pub(crate) struct ExecArguments {
    /// Forward what is typed: stdin even when it is a terminal
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// `developer` (when left out) or `root`
    #[arg(short, long)]
    pub(crate) user: Option<String>,
    /// Working directory, an absolute path; the user's home when left out
    #[arg(long)]
    pub(crate) cwd: Option<String>,
    /// An environment variable; may be given more than once
    #[arg(short, long, value_name = "K=V", value_parser = variable)]
    pub(crate) env: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) which: Which,
    /// The command and its arguments, after `--`
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

/// The format asked for by arguments that could not be understood as a whole.
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
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_workspace_is_named_in_three_ways_and_never_in_two_at_once() {
        for line in ["web", "-n web", "-w web", "--name web", "--workspace web"] {
            let parsed = parse(&format!("rig workspace start {line}")).unwrap();
            let Command::Workspace(WorkspaceCommand::Start(which)) = parsed.command else { panic!("{line}") };
            assert_eq!(which.text(), "web", "{line}");
        }
        assert!(parse("rig workspace start").is_err());
        assert!(parse("rig workspace start web -n web").is_err());
        assert!(parse("rig workspace spawn web -n web").is_err());
    }

    #[test]
    fn words_about_a_workspace_follow_its_name_or_stand_alone() {
        for (line, wanted) in [
            ("web A=b C", Some(("web", vec!["A=b", "C"]))),
            ("-n web A=b", Some(("web", vec!["A=b"]))),
            ("A=b -w web", Some(("web", vec!["A=b"]))),
            ("web", None),
        ] {
            let parsed = parse(&format!("rig workspace env set {line}")).unwrap();
            let Command::Workspace(WorkspaceCommand::Env(EnvCommand::Set(of))) = parsed.command else {
                panic!("{line}")
            };
            let parts =
                of.parts().map(|(workspace, words)| (workspace, words.iter().map(String::as_str).collect()));
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
    fn the_format_is_found_in_arguments_that_make_no_sense() {
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
