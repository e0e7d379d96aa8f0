//! One run of an agent: its task, its end, and the calls that it made.

use std::time::Duration;

use anyhow::{Result, ensure};
use rigbox_test_provider::{Provider, Seen};
use rigbox_testkit::blocking::eventually;

use super::agent::Agent;
use super::place::Place;
use crate::harness::internet::Recorder;

/// Time for the end of an agent to be seen, after the limit for its task.
const END_TIMEOUT: Duration = Duration::from_secs(30);
/// Content of the file that a task asks for.
const CONTENT: &str = "made";

/// Task: what the prompt says beside the file to write, and what comes before the command and after it.
pub(super) struct Task {
    pub(super) name: &'static str,
    pub(super) words: &'static str,
    pub(super) before: String,
    pub(super) after: &'static str,
}

/// Run of an agent.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) code: i32,
    /// All that it printed.
    pub(super) output: String,
    /// Files that it has made, each with its first line.
    pub(super) files: Vec<String>,
    /// Calls that left the VM for the proxy.
    pub(super) calls: usize,
    /// Requests that the provider got.
    pub(super) seen: Vec<Seen>,
}

impl Task {
    /// Returns a task for an agent whose environment stays as it is.
    pub(super) fn new(name: &'static str, words: &'static str) -> Self {
        Self { name, words, before: String::new(), after: "" }
    }
}

/// Runs an agent to its end.
pub(super) fn run(place: &Place<'_>, agent: &Agent, task: &Task, provider: &Provider) -> Result<Run> {
    let Task { name, words, before, after } = task;
    let folder = format!("/home/developer/agents/work/{}-{name}", agent.id);
    let prompt =
        format!("Write the word {CONTENT} into the file {folder}/made. [write:{folder}/made]{words}");
    let command = agent.command;
    // In a session of its own, because a request for a command does not last as long as an agent may take.
    let script = format!(
        "rm -rf {folder} {folder}.*; mkdir -p {folder}; cd {folder}\n\
         export AT=$HOME/agents/{} TASK='{prompt}'\n\
         cat > {folder}.sh <<'END'\n{before} {command} {after}\nEND\n\
         setsid -f sh -c 'timeout {} sh {folder}.sh > {folder}.out 2>&1 < /dev/null; echo $? > {folder}.code'",
        agent.id, agent.max_seconds
    );
    let namespace = place.installation.run_dir().join("node/own/netns").join(&place.id);
    let (recorder, before) = (Recorder::start(&namespace)?, provider.seen().len());
    place.sh(&script)?;
    let timeout = Duration::from_secs(agent.max_seconds.into()) + END_TIMEOUT;
    let code = eventually(&format!("{} ends", agent.name), timeout, || {
        let code = place.sh(&format!("cat {folder}.code 2>/dev/null || true"))?;
        Ok((!code.is_empty()).then_some(code))
    })?;
    let output = place.sh(&format!("tail -c 20000 {folder}.out"))?;
    let files =
        place.sh(&format!("cd {folder} && for file in $(ls -A); do echo $file $(head -n 1 $file); done"))?;
    Ok(Run {
        code: code.parse()?,
        output,
        files: files.lines().map(str::to_owned).collect(),
        calls: recorder.http_posts(),
        seen: provider.seen().split_off(before),
    })
}

impl Run {
    /// Checks that the task is done.
    pub(super) fn has_done_it(&self) -> Result<()> {
        ensure!(self.code == 0 && self.files == [format!("made {CONTENT}")], "{self}");
        Ok(())
    }

    /// Checks that it gave up, after `calls` calls, and said why.
    pub(super) fn has_stopped(&self, calls: usize, reason: &str) -> Result<()> {
        ensure!(self.code != 0 && self.files.is_empty(), "it did not fail: {self}");
        ensure!(self.calls <= calls, "more than {calls} calls: {self}");
        ensure!(self.output.contains(reason), "it does not say `{reason}`: {self}");
        Ok(())
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { code, output, files, calls, seen } = self;
        let seen: Vec<&str> = seen.iter().map(|seen| seen.path.as_str()).collect();
        write!(f, "exit code {code}, files {files:?}, {calls} calls, the provider saw {seen:?}:\n{output}")
    }
}
