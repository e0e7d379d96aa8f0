//! Process handles that are safe against the reuse of a pid.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rigbox_sys::async_file::ReadableFd;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::record::ProcessId;

/// Handle of one process. Its pidfd never refers to another process, and is registered with the runtime once: waiting needs nothing that
/// could be exhausted, so an error is never taken for the end of the process.
#[derive(Debug)]
pub(crate) struct ProcessHandle {
    pidfd: ReadableFd,
}

impl ProcessHandle {
    /// Opens the process `pid` and reads its identity. `NotFound` means that it has exited; any other error says nothing about it.
    pub(crate) fn open(pid: i32) -> io::Result<(Self, ProcessId)> {
        let not_found = || io::Error::new(io::ErrorKind::NotFound, format!("process {pid} has exited"));
        match pidfd_open(Pid::from_raw(pid).ok_or_else(not_found)?, PidfdFlags::NONBLOCK) {
            Err(Errno::SRCH) => Err(not_found()),
            opened => Self::new(pid, opened?),
        }
    }

    /// Takes the descriptor of the process `pid` and reads its identity. Errors are those of [`Self::open`].
    pub(crate) fn new(pid: i32, pidfd: OwnedFd) -> io::Result<(Self, ProcessId)> {
        let handle = Self { pidfd: ReadableFd::new(pidfd)? };
        // Read after the descriptor was opened, and checked afterwards: of another process that got its pid, this is not.
        let start_time = start_time(pid)?;
        if handle.has_exited() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("process {pid} has exited")));
        }
        Ok((handle, ProcessId { pid, start_time }))
    }

    /// Opens a recorded process. `None` if it has exited.
    pub(crate) fn reopen(process: ProcessId) -> io::Result<Option<Self>> {
        match Self::open(process.pid) {
            Ok((handle, found)) => Ok((found == process && !handle.has_exited()).then_some(handle)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
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
    pub(crate) async fn wait(&self) {
        if self.pidfd.readable().await.is_err() {
            // The runtime ends, and this task with it.
            std::future::pending().await
        }
    }
}

impl ProcessId {
    /// Opens the other end of the pipe that is the process's standard output, non-blocking. Fails if the process has ended, or has put
    /// something else there.
    pub(crate) fn open_output(self) -> io::Result<OwnedFd> {
        use rustix::fs::{FileType, Mode, OFlags, fstat, open};
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let output = open(format!("/proc/{}/fd/1", self.pid), flags, Mode::empty())?;
        // Of the process that is meant, and not of one that got its pid.
        if start_time(self.pid)? != self.start_time {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("process {} has exited", self.pid)));
        }
        match FileType::from_raw_mode(fstat(&output)?.st_mode) {
            FileType::Fifo => Ok(output),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it is no pipe")),
        }
    }
}

/// Reads field 22 of proc_pid_stat(5). The second field is a name in parentheses that may contain any character.
fn start_time(pid: i32) -> io::Result<u64> {
    let stat = match fs::read_to_string(format!("/proc/{pid}/stat")) {
        // The process exited while the file was read.
        Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => {
            return Err(io::Error::new(io::ErrorKind::NotFound, error));
        }
        read => read?,
    };
    let field = || stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok();
    field().ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat has no start time")))
}

/// Returns the host's boot id.
pub(crate) fn host_boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use rigbox_testkit::in_own_process;

    use super::*;

    #[tokio::test]
    async fn process_is_not_confused_with_a_later_one() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let (handle, process) = ProcessHandle::open(child.id() as i32).unwrap();
        assert!(ProcessHandle::reopen(process).unwrap().is_some());
        let later = ProcessId { start_time: process.start_time + 1, ..process };
        assert!(ProcessHandle::reopen(later).unwrap().is_none());
        handle.kill();
        handle.wait().await;
        assert!(ProcessHandle::reopen(process).unwrap().is_none(), "a zombie counts as exited");
        child.wait().unwrap();
        assert!(ProcessHandle::reopen(process).unwrap().is_none());
    }

    #[test]
    fn lack_of_descriptors_is_not_the_end_of_a_process() {
        if !in_own_process("sandbox::process::tests::lack_of_descriptors_is_not_the_end_of_a_process") {
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
            let (handle, process) = ProcessHandle::open(child.id() as i32).unwrap();
            let mut all = Vec::new();
            while let Ok(file) = fs::File::open("/dev/null") {
                all.push(file);
            }
            let wait = tokio::time::timeout(std::time::Duration::from_millis(100), handle.wait());
            assert!(wait.await.is_err(), "the process has not exited");
            assert!(ProcessHandle::reopen(process).is_err(), "unknown is neither running nor exited");
            handle.kill();
            handle.wait().await;
            drop(all);
            child.wait().unwrap();
        });
    }
}
