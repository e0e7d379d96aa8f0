//! Arguments of `rig exec`.

use std::time::Duration;

use clap::Args;

use super::variable;
use super::workspace::WorkspaceArgument;

/// Exit codes of `rig exec`, besides the command's own.
const EXIT_CODES: &str = "\
Exit codes: the command's own, 128+N for signal N, 124 after --timeout, 125 if `rig` failed, 126 if the program is not executable,
127 if it was not found.

Examples:
  rig exec web -- ls -la
  rig exec -it web -- bash
  rig exec web --shell -- 'ls | head'
  rig exec --timeout 30s web -- pytest
  id=$(rig exec --detach web -- ./server) && rig attach web $id";

#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct ExecArguments {
    /// Forward stdin even if it is a terminal
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Allocate a terminal; at a terminal, also forward its keys
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Start the command in the background and print its id; see `rig ps`
    #[arg(short, long, conflicts_with_all = ["interactive", "tty"])]
    pub(crate) detach: bool,
    /// Run the words after `--` as one command line of bash
    #[arg(long)]
    pub(crate) shell: bool,
    /// Kill the command after this time, e.g. 30s, 5m or 2h; `rig` then exits with 124
    #[arg(long, value_name = "DURATION", value_parser = super::duration::parse)]
    pub(crate) timeout: Option<Duration>,
    /// User to run as: `developer` (default) or `root`
    #[arg(short, long)]
    pub(crate) user: Option<String>,
    /// Working directory, an absolute path; the user's home by default
    #[arg(long)]
    pub(crate) cwd: Option<String>,
    /// Environment variable; repeatable
    #[arg(short, long, value_name = "K=V", value_parser = variable)]
    pub(crate) env: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) workspace: WorkspaceArgument,
    /// Command and its arguments, after `--`
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}
