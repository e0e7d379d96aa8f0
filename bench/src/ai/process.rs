//! Processes of the benchmark: this program again, with one role alone.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// First line of a process's standard input, whose end stops it.
#[derive(Serialize, Deserialize)]
pub(super) struct Parameters {
    pub(super) role: Role,
    /// Folder of sockets, keys and the database.
    pub(super) folder: PathBuf,
}

/// Role of a process.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum Role {
    Provider,
    Control,
    Proxy,
}

/// Running process. Ends when dropped.
pub(super) struct Process(Child);

impl Process {
    /// Starts a role, which listens some time later.
    pub(super) fn start(role: Role, folder: &Path) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command.arg("serve-ai").stdin(Stdio::piped()).env("RUST_LOG", "error").spawn()?;
        let parameters = serde_json::to_string(&Parameters { role, folder: folder.to_owned() })?;
        // Stays open, because its end stops the process.
        writeln!(child.stdin.as_mut().context("the process's standard input")?, "{parameters}")?;
        Ok(Self(child))
    }

    pub(super) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
