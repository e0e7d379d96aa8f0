//! Messages of the server about a running command, and its exit code.

use std::borrow::Cow;

use serde::Deserialize;

/// Signals in the order of their numbers, from 1.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// Message: a chunk of output, or the end.
#[derive(Debug, Deserialize)]
pub(super) struct ServerMessage<'a> {
    #[serde(borrow)]
    pub(super) stream: Option<&'a str>,
    // Base64 has no escapes, so it can be borrowed.
    #[serde(borrow)]
    pub(super) data_b64: Option<&'a str>,
    exit_code: Option<i64>,
    #[serde(borrow)]
    signal: Option<Cow<'a, str>>,
    error: Option<ExecError>,
}

#[derive(Debug, Deserialize)]
struct ExecError {
    code: String,
    message: String,
}

/// End of a command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The command exited or was killed by a signal; the exit code is that of a shell.
    Code(u8),
    /// The command did not start, or the connection to it was lost.
    Failed { code: String, message: String },
}

impl ServerMessage<'_> {
    /// Returns the end, if this is it.
    pub(super) fn end(&self) -> Option<End> {
        if let Some(ExecError { code, message }) = &self.error {
            return Some(End::Failed { code: code.clone(), message: message.clone() });
        }
        if let Some(signal) = &self.signal {
            return Some(match signal_number(signal) {
                Some(number) => End::Code(128 + number),
                None => End::Failed {
                    code: "unknown_signal".to_owned(),
                    message: format!("unknown signal {signal} killed the command"),
                },
            });
        }
        // The low byte, as the kernel does it.
        self.exit_code.map(|code| End::Code(code.to_le_bytes()[0]))
    }
}

/// Returns a signal's number. The name of a signal without one is its number.
fn signal_number(name: &str) -> Option<u8> {
    let name = name.strip_prefix("SIG").unwrap_or(name);
    match SIGNALS.iter().position(|one| *one == name) {
        Some(index) => u8::try_from(index + 1).ok(),
        None => name.parse().ok().filter(|number| (1..=64).contains(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(text: &str) -> Option<End> {
        serde_json::from_str::<ServerMessage<'_>>(text).unwrap().end()
    }

    #[test]
    fn end_of_a_command_becomes_an_exit_code() {
        for (text, code) in [
            (r#"{"exit_code":0,"duration_us":5}"#, 0),
            (r#"{"exit_code":7}"#, 7),
            (r#"{"exit_code":-1}"#, 255),
            (r#"{"signal":"HUP"}"#, 129),
            (r#"{"signal":"INT"}"#, 130),
            (r#"{"signal":"SIGKILL"}"#, 137),
            (r#"{"signal":"TERM"}"#, 143),
            (r#"{"signal":"SYS"}"#, 159),
            (r#"{"signal":"34"}"#, 162),
        ] {
            assert_eq!(end(text), Some(End::Code(code)), "{text}");
        }
    }

    #[test]
    fn lost_command_is_a_failure_of_our_own() {
        let lost = End::Failed { code: "agent_lost".to_owned(), message: "m".to_owned() };
        assert_eq!(end(r#"{"error":{"code":"agent_lost","message":"m"}}"#), Some(lost));
        assert!(matches!(end(r#"{"signal":"WHAT"}"#), Some(End::Failed { .. })));
        assert_eq!(end(r#"{"stream":"stdout","data_b64":"YQ=="}"#), None);
        assert_eq!(end(r#"{"something":"new"}"#), None);
    }
}
