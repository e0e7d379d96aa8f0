//! Runs a program of the system and turns its failure into an error that says what it said.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::error::Error;

/// At most so much of what a program said is repeated, in characters.
const SAID: usize = 1000;

/// Runs to the end; returns standard output.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String, Error> {
    feed(program, arguments, "")
}

/// The same, with `input` as standard input. The program is in the network namespace of the calling thread.
pub(crate) fn feed(program: &str, arguments: &[&str], input: &str) -> Result<String, Error> {
    let failed =
        |output: String| Error::Program { program: format!("{program} {}", arguments.join(" ")), output };
    let mut command = Command::new(program);
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() });
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // When it does not read, its own message says more.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        let said: String = String::from_utf8_lossy(&output.stderr).trim().chars().take(SAID).collect();
        return Err(failed(format!("{}: {said}", output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
