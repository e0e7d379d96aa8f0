//! Process of the benchmark `life`: this program again, with control and a node, which is killed like them.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rigbox_sys::spawn::{ChildSetup, configure_child};
use serde::{Deserialize, Serialize};

use super::control::Control;
use super::machine::Machine;
use super::node;
use crate::role;

const RECOVERED: &str = "recovered";
const RUNNING: &str = "running";
const STORED: &str = "stored";

/// First line of the process's standard input, whose end stops it. Each later line is a number of seconds to send reports for.
#[derive(Serialize, Deserialize)]
struct Parameters {
    folder: PathBuf,
    workspaces: u32,
}

/// Running process. It is killed when dropped, and ends with this process.
pub(super) struct Process {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// Starts both sides above what is in `folder`. Returns once all workspaces run, with the time until control knew them again.
    pub(super) fn start(folder: &Path, workspaces: u32) -> Result<(Self, Duration)> {
        let parameters = serde_json::to_string(&Parameters { folder: folder.to_owned(), workspaces })?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("serve-life").stdin(Stdio::piped()).stdout(Stdio::piped());
        // Ctrl-C is for the benchmark.
        configure_child(&mut command, ChildSetup { new_session: true, ..ChildSetup::default() });
        let started = Instant::now();
        let mut child = command.spawn()?;
        let output = BufReader::new(child.stdout.take().context("the process's standard output")?);
        let mut process = Self { child, output };
        process.tell(&parameters)?;
        process.wait_for(RECOVERED)?;
        let took = started.elapsed();
        process.wait_for(RUNNING)?;
        Ok((process, took))
    }

    /// Lets each workspace change once a second, and returns once control has stored all changes.
    pub(super) fn report(&mut self, seconds: u32) -> Result<()> {
        self.tell(&seconds.to_string())?;
        self.wait_for(STORED)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn tell(&mut self, line: &str) -> Result<()> {
        // Stays open, because its end stops the process.
        let input = self.child.stdin.as_mut().context("the process's standard input")?;
        Ok(writeln!(input, "{line}")?)
    }

    fn wait_for(&mut self, word: &str) -> Result<()> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        anyhow::ensure!(line.trim_end() == word, "the process said {line:?}, not {word}");
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // With SIGKILL. It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs both sides until standard input ends.
pub(crate) fn serve() -> Result<()> {
    let mut lines = std::io::stdin().lock().lines();
    let Parameters { folder, workspaces } = serde_json::from_str(&lines.next().context("no parameters")??)?;
    let runtime = role::runtime()?;
    let (machine, control) = runtime.block_on(async {
        let (machine, mut control) = (node::open(&folder)?, Control::open(&folder).await?);
        control.recovered().await?;
        println!("{RECOVERED}");
        control.run_workspaces(workspaces).await?;
        anyhow::Ok((machine, control))
    })?;
    println!("{RUNNING}");
    for line in lines {
        let seconds = line?.parse()?;
        runtime.block_on(send_reports(&machine, &control, seconds))?;
        println!("{STORED}");
    }
    Ok(())
}

/// Loses the agent of each VM and finds it again, in turns, each once a second, evenly spread. Returns once control has stored that.
async fn send_reports(machine: &Arc<Machine>, control: &Control, seconds: u32) -> Result<()> {
    let boots = machine.boots();
    let each = Duration::from_secs(1) / u32::try_from(boots.len())?;
    let mut interval = tokio::time::interval(each);
    for second in 0..seconds {
        for boot in &boots {
            interval.tick().await;
            machine.set_agent_lost(boot, second % 2 == 0)?;
        }
    }
    control.reported(seconds % 2 == 1).await
}
