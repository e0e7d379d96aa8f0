//! What the server says about a running command, and how its end becomes an exit code.

use std::borrow::Cow;

use serde::Deserialize;

/// Their numbers are their places, from 1.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// One object of the server's: a piece of output, or the end.
#[derive(Debug, Deserialize)]
pub(super) struct Said<'a> {
    #[serde(borrow)]
    pub(super) stream: Option<&'a str>,
    // Base64 needs no escapes, so that it can be read where it stands.
    #[serde(borrow)]
    pub(super) data_b64: Option<&'a str>,
    exit_code: Option<i64>,
    #[serde(borrow)]
    signal: Option<Cow<'a, str>>,
    error: Option<Problem>,
}

#[derive(Debug, Deserialize)]
struct Problem {
    code: String,
    message: String,
}

/// How a command ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By itself or by a signal: the exit code of a shell.
    Code(u8),
    /// It did not begin, or was lost.
    Failed { code: String, message: String },
}

impl Said<'_> {
    /// The end, if this is it.
    pub(super) fn end(&self) -> Option<End> {
        if let Some(Problem { code, message }) = &self.error {
            return Some(End::Failed { code: code.clone(), message: message.clone() });
        }
        if let Some(signal) = &self.signal {
            return Some(match signal_number(signal) {
                Some(number) => End::Code(128 + number),
                None => End::Failed {
                    code: "unknown_signal".to_owned(),
                    message: format!("the signal {signal} ended the command"),
                },
            });
        }
        // As the kernel does it: the low byte.
        self.exit_code.map(|code| End::Code(code.to_le_bytes()[0]))
    }
}

/// Its number; signals without a name have their number as name.
fn signal_number(name: &str) -> Option<u8> {
    let name = name.strip_prefix("SIG").unwrap_or(name);
    match SIGNALS.iter().position(|one| *one == name) {
        Some(place) => u8::try_from(place + 1).ok(),
        None => name.parse().ok().filter(|number| (1..=64).contains(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(text: &str) -> Option<End> {
        serde_json::from_str::<Said<'_>>(text).unwrap().end()
    }

    #[test]
    fn a_commands_end_is_an_exit_code() {
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
    fn what_was_no_end_of_the_command_is_our_failure() {
        let lost = End::Failed { code: "agent_lost".to_owned(), message: "m".to_owned() };
        assert_eq!(end(r#"{"error":{"code":"agent_lost","message":"m"}}"#), Some(lost));
        assert!(matches!(end(r#"{"signal":"WHAT"}"#), Some(End::Failed { .. })));
        assert_eq!(end(r#"{"stream":"stdout","data_b64":"YQ=="}"#), None);
        assert_eq!(end(r#"{"something":"new"}"#), None);
    }
}
