//! What a child has to do between fork and exec, which `std::process::Command` has no words for.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::libc;

/// Who the child becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// The child's surroundings.
#[derive(Debug, Default)]
pub struct Surroundings {
    /// Opened `cgroup.procs` files (or v1 `tasks`) which the child writes itself into, while it is still root.
    pub cgroups: Vec<OwnedFd>,
    /// Leads a new session; with `terminal`, standard input becomes its controlling terminal.
    pub new_session: bool,
    /// See `new_session`.
    pub terminal: bool,
    /// Taken last; nothing else can be gained by exec afterwards only if the caller also forbids new privileges.
    pub credentials: Option<Credentials>,
    /// For the OOM killer, -1000 to 1000.
    pub oom_score_adj: Option<i16>,
    /// Nice value.
    pub nice: Option<i32>,
}

/// Adds `surroundings` to `command`: they take effect in the child, right before exec. Signals that the parent blocks or ignores
/// are restored.
pub fn surround(command: &mut Command, surroundings: Surroundings) {
    let prepare = move || {
        for cgroup in &surroundings.cgroups {
            write_all(cgroup.as_raw_fd(), b"0")?;
        }
        if let Some(score) = surroundings.oom_score_adj {
            set_oom_score(score)?;
        }
        if let Some(nice) = surroundings.nice {
            // SAFETY: takes plain integers; async-signal-safe as a bare system call.
            check(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) })?;
        }
        if surroundings.new_session {
            // SAFETY: takes nothing; async-signal-safe.
            check(unsafe { libc::setsid() })?;
        }
        if surroundings.terminal {
            // SAFETY: descriptor 0 is the terminal's own; the argument is an integer.
            check(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) })?;
        }
        if let Some(who) = &surroundings.credentials {
            // The bare system calls, because the C library's wrappers would try to tell threads that the child does not have.
            let (count, list) = (who.groups.len(), who.groups.as_ptr());
            // SAFETY: pointer and length are of one live vector.
            check(unsafe { libc::syscall(libc::SYS_setgroups, count, list) } as i32)?;
            // SAFETY: plain integers.
            check(unsafe { libc::syscall(libc::SYS_setresgid, who.gid, who.gid, who.gid) } as i32)?;
            // SAFETY: plain integers.
            check(unsafe { libc::syscall(libc::SYS_setresuid, who.uid, who.uid, who.uid) } as i32)?;
        }
        restore_signals()
    };
    // SAFETY: the closure only makes async-signal-safe system calls and allocates nothing.
    unsafe { command.pre_exec(prepare) };
}

/// Sends any signal by its number, real-time ones included; a negative `pid` means a process group, as in kill(2).
///
/// # Errors
/// As kill(2).
pub fn signal(pid: i32, number: i32) -> io::Result<()> {
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
    // SAFETY: an all-zero `sigset_t` is initialised by `sigemptyset` before it is read.
    let mut none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `none` is valid for writing.
    check(unsafe { libc::sigemptyset(&mut none) })?;
    // SAFETY: `none` is initialised; the old mask is not asked for.
    check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut()) })
}

fn set_oom_score(score: i16) -> io::Result<()> {
    // SAFETY: the path is a NUL-terminated constant.
    let file = unsafe { libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    check(file)?;
    let mut digits = [0u8; 6];
    let result = write_all(file, decimal(score, &mut digits));
    // SAFETY: `file` was opened above and is closed once.
    unsafe { libc::close(file) };
    result
}

/// Decimal digits without allocating.
fn decimal(number: i16, space: &mut [u8; 6]) -> &[u8] {
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
    fn numbers_are_written_as_people_do() {
        for number in [0, 7, -1000, 1000, i16::MIN, i16::MAX] {
            assert_eq!(decimal(number, &mut [0; 6]), number.to_string().as_bytes());
        }
    }

    #[test]
    fn the_child_leads_a_session_of_its_own() {
        let mut command = Command::new("sh");
        command.args(["-c", "ps -o sid= -p $$ | tr -d ' '; echo $$"]);
        surround(
            &mut command,
            Surroundings { new_session: true, oom_score_adj: Some(500), ..Default::default() },
        );
        let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let mut lines = output.lines();
        assert_eq!(lines.next().unwrap(), lines.next().unwrap());
    }
}
