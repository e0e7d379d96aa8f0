//! Setup of a child between fork and exec that `std::process::Command` does not offer.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::libc;

/// User and groups that the child switches to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
}

/// Settings that a child applies to itself before exec.
#[derive(Debug, Default)]
pub struct ChildSetup {
    /// Open `cgroup.procs` files (v1: `tasks`) that the child joins while it is still root.
    pub cgroups: Vec<OwnedFd>,
    /// Starts a new session.
    pub new_session: bool,
    /// Makes standard input the controlling terminal of the new session.
    pub controlling_terminal: bool,
    /// Applied last. Set-user-id programs still gain privileges unless the caller also sets `no_new_privs`.
    pub credentials: Option<Credentials>,
    /// OOM killer adjustment, -1000 to 1000.
    pub oom_score_adj: Option<i16>,
    /// Nice value.
    pub nice: Option<i32>,
}

/// Makes the child of `command` apply `setup` right before exec. Also restores signals that the parent blocks or ignores.
pub fn configure_child(command: &mut Command, setup: ChildSetup) {
    let apply = move || {
        for cgroup in &setup.cgroups {
            write_all(cgroup.as_raw_fd(), b"0")?;
        }
        if let Some(score) = setup.oom_score_adj {
            set_oom_score(score)?;
        }
        if let Some(nice) = setup.nice {
            // SAFETY: takes plain integers; async-signal-safe as a bare system call.
            check(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) })?;
        }
        if setup.new_session {
            // SAFETY: takes nothing; async-signal-safe.
            check(unsafe { libc::setsid() })?;
        }
        if setup.controlling_terminal {
            // SAFETY: operates on descriptor 0; the argument is an integer.
            check(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) })?;
        }
        if let Some(credentials) = &setup.credentials {
            // Raw system calls: the C library's wrappers would try to synchronize threads that the child does not have.
            let (count, list) = (credentials.groups.len(), credentials.groups.as_ptr());
            // SAFETY: pointer and length are of one live vector.
            check(unsafe { libc::syscall(libc::SYS_setgroups, count, list) } as i32)?;
            // SAFETY: plain integers.
            check(unsafe {
                libc::syscall(libc::SYS_setresgid, credentials.gid, credentials.gid, credentials.gid)
            } as i32)?;
            // SAFETY: plain integers.
            check(unsafe {
                libc::syscall(libc::SYS_setresuid, credentials.uid, credentials.uid, credentials.uid)
            } as i32)?;
        }
        restore_signals()
    };
    // SAFETY: the closure only makes async-signal-safe system calls and allocates nothing.
    unsafe { command.pre_exec(apply) };
}

/// Sends a signal by number, including real-time signals. A negative `pid` addresses a process group, as in kill(2).
///
/// # Errors
/// As kill(2).
pub fn send_signal(pid: i32, number: i32) -> io::Result<()> {
    // SAFETY: plain integers.
    check(unsafe { libc::kill(pid, number) })
}

fn restore_signals() -> io::Result<()> {
    for signal in [libc::SIGPIPE, libc::SIGHUP, libc::SIGINT, libc::SIGTERM, libc::SIGCHLD] {
        // SAFETY: the default action is valid for each of these signals.
        if unsafe { libc::signal(signal, libc::SIG_DFL) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: an all-zero `sigset_t` is initialized by `sigemptyset` before it is read.
    let mut none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `none` is valid for writing.
    check(unsafe { libc::sigemptyset(&mut none) })?;
    // SAFETY: `none` is initialized; the old mask is not requested.
    check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut()) })
}

fn set_oom_score(score: i16) -> io::Result<()> {
    // SAFETY: the path is a NUL-terminated constant.
    let file = unsafe { libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    check(file)?;
    let mut digits = [0u8; 6];
    let result = write_all(file, format_decimal(score, &mut digits));
    // SAFETY: `file` was opened above and is closed once.
    unsafe { libc::close(file) };
    result
}

/// Formats `number` in decimal without allocating.
fn format_decimal(number: i16, space: &mut [u8; 6]) -> &[u8] {
    let mut rest = number.unsigned_abs();
    let mut start = space.len();
    loop {
        start -= 1;
        if let Some(digit) = space.get_mut(start) {
            *digit = b'0' + (rest % 10) as u8;
        }
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        start -= 1;
        if let Some(sign) = space.get_mut(start) {
            *sign = b'-';
        }
    }
    space.get(start..).unwrap_or_default()
}

fn write_all(fd: i32, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length are of one live slice.
    let written = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
    if written == bytes.len() as isize { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_format_matches_to_string() {
        for number in [0, 7, -1000, 1000, i16::MIN, i16::MAX] {
            assert_eq!(format_decimal(number, &mut [0; 6]), number.to_string().as_bytes());
        }
    }

    #[test]
    fn child_leads_its_own_session() {
        let mut command = Command::new("sh");
        command.args(["-c", "ps -o sid= -p $$ | tr -d ' '; echo $$"]);
        configure_child(
            &mut command,
            ChildSetup { new_session: true, oom_score_adj: Some(500), ..Default::default() },
        );
        let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let mut lines = output.lines();
        assert_eq!(lines.next().unwrap(), lines.next().unwrap());
    }
}
