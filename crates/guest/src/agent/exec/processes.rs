//! Commands of this VM by id: those that run, and the newest of those that have run in the background.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use rigbox_proto::fault;
use rigbox_proto::guest::exec_output::Output;
use rigbox_proto::guest::{ExecExit, ExecOutput, ExecStart, Process};
use tokio_stream::Stream;
use tonic::{Code, Status};

use super::group::ProcessGroup;
use super::ring::Ring;

/// Background commands that are remembered after their end.
const MAX_ENDED: usize = 32;
/// Characters of a command in a list.
const MAX_COMMAND_CHARS: usize = 200;

/// Table of commands.
#[derive(Clone, Default)]
pub(super) struct Processes {
    table: Arc<Mutex<HashMap<String, Entry>>>,
}

struct Entry {
    process: Process,
    /// Dropped at the end.
    group: Option<Arc<ProcessGroup>>,
    /// Background commands only.
    ring: Option<Arc<Ring>>,
}

impl Processes {
    /// Adds a command that has started. `ring` is given for one in the background. The command of a request without an id is not listed.
    pub(super) fn add(
        &self,
        start: &ExecStart,
        group: &Arc<ProcessGroup>,
        ring: Option<&Arc<Ring>>,
    ) -> Process {
        let command = if start.shell.is_empty() { start.argv.join(" ") } else { start.shell.clone() };
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let process = Process {
            id: start.id.clone(),
            pid: group.leader(),
            command: command.chars().take(MAX_COMMAND_CHARS).collect(),
            user: start.user.clone(),
            detached: ring.is_some(),
            started_unix_ms: i64::try_from(started.as_millis()).unwrap_or(i64::MAX),
            exit: None,
        };
        let entry = Entry { process: process.clone(), group: Some(Arc::clone(group)), ring: ring.cloned() };
        if !start.id.is_empty() {
            self.lock().insert(start.id.clone(), entry);
        }
        process
    }

    /// Records the end of a command. One that had a caller is forgotten, and so are the oldest of too many others.
    pub(super) fn end(&self, id: &str, exit: Option<ExecExit>) {
        let mut table = self.lock();
        match table.get_mut(id) {
            Some(entry) if entry.ring.is_some() => {
                entry.group = None;
                entry.process.exit = Some(exit.unwrap_or_default());
            }
            _ => drop(table.remove(id)),
        }
        let mut ended: Vec<_> = table.values().filter(|entry| entry.group.is_none()).collect();
        ended.sort_by_key(|entry| entry.process.started_unix_ms);
        let excess = ended.len().saturating_sub(MAX_ENDED);
        let forgotten: Vec<_> = ended.iter().take(excess).map(|entry| entry.process.id.clone()).collect();
        for id in forgotten {
            table.remove(&id);
        }
    }

    /// Lists the commands, oldest first.
    pub(super) fn list(&self) -> Vec<Process> {
        let mut list: Vec<_> = self.lock().values().map(|entry| entry.process.clone()).collect();
        list.sort_by_key(|process| (process.started_unix_ms, process.pid));
        list
    }

    /// Sends a signal to a command. It gets there even while the command does not read its input.
    pub(super) fn signal(&self, id: &str, name: &str) -> Result<(), Status> {
        let signal = parse_signal(name).ok_or_else(|| {
            let message = format!("Signal `{name}` is unknown. Use for example INT, TERM or KILL.");
            fault::status(Code::InvalidArgument, "bad_request", message)
        })?;
        let group = self.lock().get(id).ok_or_else(|| not_found(id))?.group.clone();
        let group = group.ok_or_else(|| {
            fault::status(Code::FailedPrecondition, "ended", format!("Process `{id}` has already ended."))
        })?;
        match signal {
            // What has left the process group is meant too.
            Signal::SIGKILL => group.kill(),
            signal => group.signal(signal),
        }
        Ok(())
    }

    /// Streams the kept output of a background command and what follows, up to its exit.
    pub(super) fn output(
        &self,
        id: &str,
    ) -> Result<impl Stream<Item = Result<ExecOutput, Status>> + use<>, Status> {
        let table = self.lock();
        let entry = table.get(id).ok_or_else(|| not_found(id))?;
        let ring = entry.ring.clone().ok_or_else(|| {
            let message =
                format!("Process `{id}` does not run in the background. Its caller has its output.");
            fault::status(Code::InvalidArgument, "bad_request", message)
        })?;
        Ok(futures_util::stream::unfold(Some((ring, 0)), |state| async {
            let (ring, number) = state?;
            let (chunk, next) = ring.next(number).await;
            let rest = (!matches!(chunk, Output::Exit(_))).then_some((ring, next));
            Some((Ok(ExecOutput { output: Some(chunk) }), rest))
        }))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Entry>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Parses the name of a signal, with or without `SIG`.
pub(super) fn parse_signal(name: &str) -> Option<Signal> {
    format!("SIG{}", name.trim_start_matches("SIG")).parse().ok()
}

fn not_found(id: &str) -> Status {
    fault::status(Code::NotFound, "not_found", format!("Process `{id}` not found in the workspace."))
}
