//! Runs programs of the system, and reports their failure with what they wrote to standard error.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::error::Error;

/// Maximum number of characters of standard error that an error message quotes.
const MAX_STDERR_CHARS: usize = 1000;

/// Runs a program to its end and returns its standard output.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String, Error> {
    run_with_input(program, arguments, "")
}

/// As [`run`], with `input` as standard input. The program runs in the network namespace of the calling thread.
pub(crate) fn run_with_input(program: &str, arguments: &[&str], input: &str) -> Result<String, Error> {
    let failed =
        |output: String| Error::Program { program: format!("{program} {}", arguments.join(" ")), output };
    let mut command = Command::new(program);
    // Some messages are compared.
    command.env("LC_ALL", "C");
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() });
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // If the program does not read its input, its own message is more useful.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let stderr: String = stderr.trim().chars().take(MAX_STDERR_CHARS).collect();
        return Err(failed(format!("{}: {stderr}", output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
