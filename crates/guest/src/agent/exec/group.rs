//! Processes of a command: as a process group, which signals are sent to, and as a control group, which no process can leave.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use nix::sys::signal::Signal;
use rustix::termios::tcgetpgrp;

use crate::agent::terminal;

/// Parent of the commands' control groups.
const CGROUP_PARENT: &str = "/sys/fs/cgroup/rigbox/exec";

/// Control groups of commands, including those that outlive their command because background processes remain.
#[derive(Default)]
pub(super) struct ControlGroups {
    leftover: Mutex<Vec<PathBuf>>,
}

impl ControlGroups {
    /// Creates a control group.
    pub(super) fn create(&self, number: u64) -> io::Result<PathBuf> {
        let path = PathBuf::from(format!("{CGROUP_PARENT}/{number}"));
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// Removes a control group once it is empty, and those of earlier commands that have become empty.
    pub(super) fn remove(&self, path: PathBuf) {
        let mut leftover = self.leftover.lock().unwrap_or_else(PoisonError::into_inner);
        leftover.push(path);
        leftover
            .retain(|path| fs::remove_dir(path).is_err_and(|error| error.kind() != io::ErrorKind::NotFound));
    }
}

/// Processes of one command.
pub(super) struct ProcessGroup {
    leader: i32,
    cgroup: PathBuf,
    /// Controller side of the command's terminal.
    terminal: Option<OwnedFd>,
}

impl ProcessGroup {
    pub(super) fn new(leader: u32, cgroup: PathBuf, terminal: Option<OwnedFd>) -> Self {
        Self { leader: leader.cast_signed(), cgroup, terminal }
    }

    pub(super) fn leader(&self) -> u32 {
        self.leader.unsigned_abs()
    }

    /// Sends a signal to the command: on a terminal to the job in its foreground, as Ctrl-C does.
    pub(super) fn signal(&self, signal: Signal) {
        let foreground = self.terminal.as_ref().and_then(|terminal| tcgetpgrp(terminal.as_fd()).ok());
        let group = foreground.map_or(self.leader, |group| group.as_raw_nonzero().get());
        // A group that has already ended is fine.
        let _ = rigbox_sys::spawn::send_signal(-group, signal as i32);
    }

    /// Sends a signal to every process of the command, also to those that have left its process group.
    pub(super) fn signal_all(&self, signal: Signal) {
        let processes = fs::read_to_string(self.cgroup.join("cgroup.procs")).unwrap_or_default();
        for process in processes.lines().filter_map(|line| line.parse().ok()) {
            let _ = rigbox_sys::spawn::send_signal(process, signal as i32);
        }
    }

    /// Kills every process of the command.
    pub(super) fn kill(&self) {
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
    }

    /// Sets the size of the command's terminal.
    pub(super) fn resize(&self, size: rigbox_proto::guest::WindowSize) {
        if let Some(terminal) = &self.terminal {
            let _ = terminal::resize(terminal, size);
        }
    }

    pub(super) fn has_terminal(&self) -> bool {
        self.terminal.is_some()
    }

    pub(super) fn cgroup(&self) -> PathBuf {
        self.cgroup.clone()
    }
}
