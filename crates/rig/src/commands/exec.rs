//! `rig exec`: runs a command in a workspace. What it writes comes out here, what comes in here goes there, and its end is ours.
//!
//! With nobody at stdin one request is enough (`plain`); with somebody, or something, there the conversation goes over a
//! WebSocket (`socket`), which also carries signals and the terminal's size.

mod end;
mod plain;
mod sink;
mod socket;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::api::Api;
use crate::args::ExecArguments;
use crate::failure::Failure;
use crate::output::Output;
use crate::terminal::{self, Stdin};
use sink::Sink;

/// What the server is asked to run.
#[derive(Debug, Serialize)]
struct Request {
    command: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cwd: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    env: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tty: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cols: Option<u16>,
}

/// How stdin and the terminal take part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Manner {
    /// The command has a terminal.
    tty: bool,
    /// Our stdin is the command's.
    forward: bool,
    /// Our terminal is the command's, so that every key goes there.
    raw: bool,
    /// There is something to say while it runs.
    talk: bool,
}

impl Manner {
    fn new(interactive: bool, tty: bool, stdin: Stdin) -> Self {
        let forward = match stdin {
            Stdin::Terminal => interactive,
            Stdin::Data => true,
            Stdin::Null => false,
        };
        // Who sits at a terminal may press Ctrl-C, and means the command.
        let talk = tty || forward || stdin == Stdin::Terminal;
        Self { tty, forward, raw: tty && interactive && stdin == Stdin::Terminal, talk }
    }
}

pub(super) async fn run(api: &Api, out: &Output, arguments: ExecArguments) -> Result<u8, Failure> {
    let manner = Manner::new(arguments.interactive, arguments.tty, Stdin::of_process());
    let size = manner.tty.then(terminal::size).flatten();
    let mut env: BTreeMap<_, _> = arguments.env.into_iter().collect();
    if manner.tty
        && let Ok(term) = std::env::var("TERM")
    {
        env.entry("TERM".to_owned()).or_insert(term);
    }
    let request = Request {
        command: arguments.command,
        cwd: arguments.cwd,
        env,
        user: arguments.user,
        tty: manner.tty.then_some(true),
        rows: size.map(|size| size.rows),
        cols: size.map(|size| size.cols),
    };
    let workspace = arguments.which.text();
    let mut sink = Sink::new(out);
    let end = if manner.talk {
        socket::run(api, workspace, &request, manner, &mut sink).await?
    } else {
        plain::run(api, workspace, &request, &mut sink).await?
    };
    sink.end(end).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stdin_is_forwarded_when_it_is_no_terminal_or_when_asked() {
        let manner = |tty, forward, raw, talk| Manner { tty, forward, raw, talk };
        for ((interactive, tty, stdin), wanted) in [
            ((false, false, Stdin::Null), manner(false, false, false, false)),
            ((true, false, Stdin::Null), manner(false, false, false, false)),
            ((false, false, Stdin::Data), manner(false, true, false, true)),
            ((false, false, Stdin::Terminal), manner(false, false, false, true)),
            ((true, false, Stdin::Terminal), manner(false, true, false, true)),
            ((false, true, Stdin::Terminal), manner(true, false, false, true)),
            ((true, true, Stdin::Terminal), manner(true, true, true, true)),
            ((true, true, Stdin::Data), manner(true, true, false, true)),
            ((false, true, Stdin::Null), manner(true, false, false, true)),
        ] {
            assert_eq!(Manner::new(interactive, tty, stdin), wanted, "{interactive} {tty} {stdin:?}");
        }
    }
}
