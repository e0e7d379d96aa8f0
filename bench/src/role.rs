//! Process of one role: this program again, with the role alone. The first line of its standard input has its parameters, and the end of that
//! stops it.

use std::io::{BufRead, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result};
use rigbox_sys::spawn::{ChildSetup, configure_child};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;

/// Worker threads, as in each role of `rigboxd`.
const THREADS: usize = 2;

/// Running process of a role. Ends when dropped, and with this process.
pub(crate) struct Process(Child);

impl Process {
    /// Starts this program with `argument`, by which it runs the role. It listens some time later.
    pub(crate) fn start(argument: &str, parameters: &impl Serialize) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(argument).stdin(Stdio::piped()).env("RUST_LOG", "error");
        // Ctrl-C is for the benchmark.
        configure_child(&mut command, ChildSetup { new_session: true, ..ChildSetup::default() });
        let mut process = Self(command.spawn()?);
        let parameters = serde_json::to_string(parameters)?;
        // Stays open, because its end stops the process.
        let input = process.0.stdin.as_mut().context("the process's standard input")?;
        writeln!(input, "{parameters}")?;
        Ok(process)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Returns how it has ended, if it has.
    pub(crate) fn ending(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.0.try_wait()?)
    }

    /// Ends it.
    pub(crate) fn end(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Reads the parameters.
pub(crate) fn parameters<T: DeserializeOwned>() -> Result<T> {
    let mut parameters = String::new();
    std::io::stdin().lock().read_line(&mut parameters)?;
    Ok(serde_json::from_str(&parameters)?)
}

/// Creates the runtime, as `rigboxd` does.
pub(crate) fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()
}

/// Waits until standard input ends.
pub(crate) async fn ended() {
    let _ = tokio::task::spawn_blocking(|| std::io::stdin().lock().read_to_end(&mut Vec::new())).await;
}
