//! Processes that are known by more than their pid.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::journal::Process;

/// A process that cannot be mistaken: the descriptor names this one only.
#[derive(Debug)]
pub(crate) struct Handle {
    pidfd: OwnedFd,
}

impl Handle {
    /// Opens `pid` and notes when it started.
    pub(crate) fn open(pid: i32) -> io::Result<(Self, Process)> {
        let gone = || io::Error::new(io::ErrorKind::NotFound, format!("process {pid} is gone"));
        let pidfd = pidfd_open(Pid::from_raw(pid).ok_or_else(gone)?, PidfdFlags::NONBLOCK)?;
        // Read after the descriptor was opened: if the process had gone before, this fails.
        let start_time = start_time(pid).ok_or_else(gone)?;
        Ok((Self { pidfd }, Process { pid, start_time }))
    }

    /// Opens a process that is on record, unless it is another one by now.
    pub(crate) fn reopen(process: Process) -> Option<Self> {
        let (handle, found) = Self::open(process.pid).ok()?;
        (found == process && !handle.has_ended()).then_some(handle)
    }

    pub(crate) fn kill(&self) {
        // One that has ended already is fine.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// A zombie has ended too.
    pub(crate) fn has_ended(&self) -> bool {
        let mut fds = [rustix::event::PollFd::new(&self.pidfd, rustix::event::PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(rustix::event::poll(&mut fds, Some(&now)), Ok(1))
    }

    /// Waits until the process has ended.
    pub(crate) async fn ended(&self) -> io::Result<()> {
        rigbox_sys::async_file::wait_readable(self.pidfd.try_clone()?).await
    }
}

/// Field 22 of proc_pid_stat(5); the second field is a name in parentheses which may contain anything.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

/// The host's boot id.
pub(crate) fn host_boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_not_mistaken_for_another() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let (handle, process) = Handle::open(child.id() as i32).unwrap();
        assert!(Handle::reopen(process).is_some());
        assert!(Handle::reopen(Process { start_time: process.start_time + 1, ..process }).is_none());
        handle.kill();
        handle.ended().await.unwrap();
        assert!(Handle::reopen(process).is_none(), "a zombie is no running process");
        child.wait().unwrap();
        assert!(Handle::open(process.pid).is_err());
    }
}
