//! Runs a program of the system and turns its failure into an error that says what it said.

use std::process::{Command, Stdio};

use crate::error::Error;

/// Runs to the end; returns standard output.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String, Error> {
    let failed =
        |output: String| Error::Program { program: format!("{program} {}", arguments.join(" ")), output };
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
