//! Runs programs of the host. An error names the program and its purpose, and quotes the end of its output.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use crate::error::Error;

/// Search path that includes root's programs. The `PATH` of root may lack `sbin`, for example after `su` or in some services.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Lines of a failed program's output that an error quotes.
const MAX_TAIL_LINES: usize = 20;

/// Runs `command` to its end and returns its standard output.
pub(crate) fn output(command: &mut Command, purpose: &str) -> Result<String, Error> {
    let out =
        command.stdin(Stdio::null()).output().map_err(|e| failed(command, purpose, &e.to_string(), ""))?;
    if !out.status.success() {
        let stderr = String::from_utf8_lossy(&out.stderr);
        return Err(failed(command, purpose, &out.status.to_string(), &stderr));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Runs `command` to its end and passes each line of its standard error to `on_line`: mmdebstrap reports its progress there. Discards
/// standard output.
pub(crate) fn run_with_progress(
    command: &mut Command,
    purpose: &str,
    on_line: &mut dyn FnMut(&str),
) -> Result<(), Error> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| failed(command, purpose, &e.to_string(), ""))?;
    let mut output = String::new();
    if let Some(stderr) = child.stderr.take() {
        // Not `lines()`: invalid UTF-8 must not end the loop, or the child blocks on a full pipe.
        let mut reader = BufReader::new(stderr);
        let mut bytes = Vec::new();
        while matches!(reader.by_ref().read_until(b'\n', &mut bytes), Ok(n) if n > 0) {
            let text = String::from_utf8_lossy(&bytes);
            on_line(text.trim_end());
            output.push_str(&text);
            bytes.clear();
        }
    }
    let status = child.wait().map_err(|e| failed(command, purpose, &e.to_string(), &output))?;
    if status.success() { Ok(()) } else { Err(failed(command, purpose, &status.to_string(), &output)) }
}

fn failed(command: &Command, purpose: &str, status: &str, output: &str) -> Error {
    let lines: Vec<&str> = output.lines().collect();
    let tail = lines.get(lines.len().saturating_sub(MAX_TAIL_LINES)..).unwrap_or_default().join("\n");
    Error::Command {
        program: command.get_program().to_string_lossy().into_owned(),
        purpose: purpose.to_owned(),
        status: status.to_owned(),
        tail,
    }
}
