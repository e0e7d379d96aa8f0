//! Arguments of `rig exec`.

use clap::Args;

use super::variable;
use super::workspace::WorkspaceArgument;

#[derive(Debug, Args)]
pub(crate) struct ExecArguments {
    /// Forward stdin even if it is a terminal
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Allocate a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
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
