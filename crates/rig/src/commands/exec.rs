//! `rig exec`: runs a command in a workspace, with its input, output, signals and exit code connected to this process.
//!
//! Without input, one HTTP request is enough (`request`). Otherwise a WebSocket (`socket`) also carries stdin, signals and the terminal's
//! size.

pub(super) mod background;
pub(super) mod end;
mod request;
mod signals;
pub(super) mod sink;
mod socket;

use std::collections::BTreeMap;

use serde::Serialize;
use tokio::io::AsyncRead;

use crate::api::Api;
use crate::args::ExecArguments;
use crate::failure::Failure;
use crate::output::Output;
use crate::terminal::{self, Stdin};
use end::End;
use sink::Sink;

/// Command to run.
#[derive(Debug, Serialize)]
struct Request {
    command: Command,
    #[serde(skip_serializing_if = "Option::is_none")]
    cwd: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    env: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tty: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cols: Option<u16>,
}

/// Program with its arguments, or a command line for bash.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Command {
    Argv(Vec<String>),
    Line(String),
}

impl Request {
    fn of(argv: Vec<String>, user: Option<String>) -> Self {
        let command = Command::Argv(argv);
        Self {
            command,
            user,
            cwd: None,
            env: BTreeMap::new(),
            timeout_s: None,
            tty: None,
            rows: None,
            cols: None,
        }
    }

    /// Adds a tip to the message about a program that was not found.
    fn explain(&self, message: String) -> String {
        match &self.command {
            Command::Argv(argv)
                if argv.len() == 1
                    && argv.iter().any(|word| word.contains([' ', '|', '&', ';', '<', '>', '$'])) =>
            {
                format!("{message} To run a command line, add `--shell` before the `--`.")
            }
            _ => message,
        }
    }
}

/// Role of stdin and the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mode {
    /// The command has a terminal.
    tty: bool,
    /// Our stdin is forwarded to the command.
    forward: bool,
    /// Our terminal is in raw mode, so that every key goes to the command.
    raw: bool,
    /// Input or signals may follow while the command runs.
    duplex: bool,
}

impl Mode {
    fn new(interactive: bool, tty: bool, stdin: Stdin) -> Self {
        let forward = match stdin {
            // A terminal without keys would be a trap.
            Stdin::Terminal => interactive || tty,
            Stdin::Data => true,
            Stdin::Null => false,
        };
        // Ctrl-C at a terminal is meant for the command.
        let duplex = tty || forward || stdin == Stdin::Terminal;
        Self { tty, forward, raw: tty && stdin == Stdin::Terminal, duplex }
    }
}

/// Runs a program with this input, and returns its end.
pub(super) async fn run_with_input(
    api: &Api,
    workspace: &str,
    (command, user): (Vec<String>, Option<String>),
    input: impl AsyncRead + Send + Unpin + 'static,
    sink: &mut Sink<'_>,
) -> Result<End, Failure> {
    let mode = Mode { tty: false, forward: true, raw: false, duplex: true };
    socket::run(api, workspace, &Request::of(command, user), mode, input, sink).await
}

/// Runs a program without input, and returns its end.
pub(super) async fn run_without_input(
    api: &Api,
    workspace: &str,
    (command, user): (Vec<String>, Option<String>),
    sink: &mut Sink<'_>,
) -> Result<End, Failure> {
    request::run(api, workspace, &Request::of(command, user), sink).await
}

pub(super) async fn run(api: &Api, out: &Output, arguments: ExecArguments) -> Result<u8, Failure> {
    let mode = Mode::new(arguments.interactive, arguments.tty, Stdin::of_process());
    let size = mode.tty.then(terminal::size).flatten();
    let mut env: BTreeMap<_, _> = arguments.env.into_iter().collect();
    if mode.tty
        && let Ok(term) = std::env::var("TERM")
    {
        env.entry("TERM".to_owned()).or_insert(term);
    }
    let request = Request {
        command: if arguments.shell {
            Command::Line(arguments.command.join(" "))
        } else {
            Command::Argv(arguments.command)
        },
        cwd: arguments.cwd,
        env,
        user: arguments.user,
        timeout_s: arguments.timeout.map(|timeout| timeout.as_secs_f64()),
        tty: mode.tty.then_some(true),
        rows: size.map(|size| size.rows),
        cols: size.map(|size| size.cols),
    };
    let workspace = arguments.workspace.name_or_id();
    if arguments.detach {
        return background::start(api, out, workspace, &request).await;
    }
    let mut sink = Sink::new(out);
    let end = if mode.duplex {
        socket::run(api, workspace, &request, mode, tokio::io::stdin(), &mut sink).await?
    } else {
        request::run(api, workspace, &request, &mut sink).await?
    };
    let end = match end {
        End::Failed { code, message } if code == "not_found" => {
            End::Failed { code, message: request.explain(message) }
        }
        end => end,
    };
    sink.finish(end).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stdin_is_forwarded_unless_it_is_a_terminal_or_on_request() {
        let mode = |tty, forward, raw, duplex| Mode { tty, forward, raw, duplex };
        for ((interactive, tty, stdin), wanted) in [
            ((false, false, Stdin::Null), mode(false, false, false, false)),
            ((true, false, Stdin::Null), mode(false, false, false, false)),
            ((false, false, Stdin::Data), mode(false, true, false, true)),
            ((false, false, Stdin::Terminal), mode(false, false, false, true)),
            ((true, false, Stdin::Terminal), mode(false, true, false, true)),
            ((false, true, Stdin::Terminal), mode(true, true, true, true)),
            ((true, true, Stdin::Terminal), mode(true, true, true, true)),
            ((true, true, Stdin::Data), mode(true, true, false, true)),
            ((false, true, Stdin::Null), mode(true, false, false, true)),
        ] {
            assert_eq!(Mode::new(interactive, tty, stdin), wanted, "{interactive} {tty} {stdin:?}");
        }
    }
}
