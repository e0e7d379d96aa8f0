//! Process handles that are safe against the reuse of a pid.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::journal::ProcessId;

/// Handle of one process. Its pidfd never refers to another process.
#[derive(Debug)]
pub(crate) struct ProcessHandle {
    pidfd: OwnedFd,
}

impl ProcessHandle {
    /// Opens the process `pid` and reads its identity.
    pub(crate) fn open(pid: i32) -> io::Result<(Self, ProcessId)> {
        let not_found = || io::Error::new(io::ErrorKind::NotFound, format!("process {pid} has exited"));
        let pidfd = pidfd_open(Pid::from_raw(pid).ok_or_else(not_found)?, PidfdFlags::NONBLOCK)?;
        // Read after the pidfd was opened: this fails if the process had exited before.
        let start_time = start_time(pid).ok_or_else(not_found)?;
        Ok((Self { pidfd }, ProcessId { pid, start_time }))
    }

    /// Opens a recorded process, unless it has exited.
    pub(crate) fn reopen(process: ProcessId) -> Option<Self> {
        let (handle, found) = Self::open(process.pid).ok()?;
        (found == process && !handle.has_exited()).then_some(handle)
    }

    pub(crate) fn kill(&self) {
        // A process that has already exited is fine.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Returns whether the process has exited. True for a zombie.
    pub(crate) fn has_exited(&self) -> bool {
        let mut fds = [rustix::event::PollFd::new(&self.pidfd, rustix::event::PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(rustix::event::poll(&mut fds, Some(&now)), Ok(1))
    }

    /// Waits until the process has exited.
    pub(crate) async fn wait(&self) -> io::Result<()> {
        rigbox_sys::async_file::wait_readable(self.pidfd.try_clone()?).await
    }
}

/// Reads field 22 of proc_pid_stat(5). The second field is a name in parentheses that may contain any character.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

/// Returns the host's boot id.
pub(crate) fn host_boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn process_is_not_confused_with_a_later_one() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let (handle, process) = ProcessHandle::open(child.id() as i32).unwrap();
        assert!(ProcessHandle::reopen(process).is_some());
        assert!(ProcessHandle::reopen(ProcessId { start_time: process.start_time + 1, ..process }).is_none());
        handle.kill();
        handle.wait().await.unwrap();
        assert!(ProcessHandle::reopen(process).is_none(), "a zombie counts as exited");
        child.wait().unwrap();
        assert!(ProcessHandle::open(process.pid).is_err());
    }
}
