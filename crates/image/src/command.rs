//! Runs the host's programs, so that a failure names the program, its purpose and its last words.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use crate::error::Error;

/// Where the programs for root lie too: a root's `PATH` need not name `sbin` (after `su`, in some services).
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How many lines of a failed program's output an error repeats.
const TAIL_LINES: usize = 20;

/// Runs `command` to its end and returns what it printed on standard output.
pub(crate) fn output(command: &mut Command, purpose: &str) -> Result<String, Error> {
    let out =
        command.stdin(Stdio::null()).output().map_err(|e| failed(command, purpose, &e.to_string(), ""))?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        return Err(failed(command, purpose, &out.status.to_string(), &said));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Runs `command` to its end and hands each line of its standard error (where mmdebstrap reports its
/// progress) to `line`; standard output is discarded.
pub(crate) fn watched(command: &mut Command, purpose: &str, line: &mut dyn FnMut(&str)) -> Result<(), Error> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| failed(command, purpose, &e.to_string(), ""))?;
    let mut said = String::new();
    if let Some(stderr) = child.stderr.take() {
        // Not `lines()`: a byte that is no UTF-8 must not end the reading, or the child blocks on a full pipe.
        let mut reader = BufReader::new(stderr);
        let mut bytes = Vec::new();
        while matches!(reader.by_ref().read_until(b'\n', &mut bytes), Ok(n) if n > 0) {
            let text = String::from_utf8_lossy(&bytes);
            line(text.trim_end());
            said.push_str(&text);
            bytes.clear();
        }
    }
    let status = child.wait().map_err(|e| failed(command, purpose, &e.to_string(), &said))?;
    if status.success() { Ok(()) } else { Err(failed(command, purpose, &status.to_string(), &said)) }
}

fn failed(command: &Command, purpose: &str, status: &str, said: &str) -> Error {
    let lines: Vec<&str> = said.lines().collect();
    let tail = lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default().join("\n");
    Error::Command {
        program: command.get_program().to_string_lossy().into_owned(),
        purpose: purpose.to_owned(),
        status: status.to_owned(),
        tail,
    }
}
