//! Stand-in for `systemctl` until systemd has started, so that `systemctl`, `service`, `reboot` and the other links to it wait for systemd in
//! the first seconds instead of failing. PID 1 mounts this program over it, and the agent removes the mount once the system has started.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::mount::{MntFlags, umount2};

use crate::mounts::bind_program;

const SYSTEMCTL: &str = "/usr/bin/systemctl";
/// The covered program.
const REAL: &str = "/run/rigbox/systemctl";
/// systemd's own socket, for root. It is there before any bus.
const PRIVATE_SOCKET: &str = "/run/systemd/private";
/// Socket of the system bus, for all other users.
const BUS_SOCKET: &str = "/run/dbus/system_bus_socket";
/// Part of the control group of every command.
const COMMAND_CGROUP: &str = "/rigbox/exec/";
const TIMEOUT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Covers the `systemctl` of the disk that is mounted on `root`, if it has one.
pub(crate) fn cover(root: &Path) -> Result<()> {
    let below = |path: &str| root.join(path.trim_start_matches('/'));
    // A link could lead out of the disk.
    if !fs::symlink_metadata(below(SYSTEMCTL)).is_ok_and(|file| file.is_file()) {
        return Ok(());
    }
    // Without it, service(8) takes systemd for absent (sd_booted(3)).
    fs::create_dir_all(below("/run/systemd/system"))?;
    fs::File::create(below(REAL))?;
    bind_program(&below(SYSTEMCTL), &below(REAL))?;
    bind_program(Path::new("/init"), &below(SYSTEMCTL))
}

/// Removes the mount. Whoever runs the stand-in goes on waiting.
pub(crate) fn uncover() {
    if is_covered()
        && let Err(error) = umount2(SYSTEMCTL, MntFlags::MNT_DETACH)
    {
        eprintln!("rigbox-agent: failed to uncover {SYSTEMCTL}: {error}");
    }
}

/// Returns whether this process belongs to a command that the host runs.
fn is_command() -> bool {
    fs::read_to_string("/proc/self/cgroup").is_ok_and(|group| group.contains(COMMAND_CGROUP))
}

/// Returns whether the real program is in its place again.
fn is_uncovered() -> bool {
    let identity = |path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    matches!((identity(SYSTEMCTL), identity(REAL)), (Ok(now), Ok(real)) if now == real)
}

/// Returns whether this VM has a covered `systemctl`.
pub(crate) fn is_covered() -> bool {
    fs::exists(REAL).unwrap_or(false)
}

/// Waits for systemd, and becomes the real program. Returns only on failure.
///
/// A command of the host waits until the system has started: it would otherwise find services that are about to start inactive, and
/// `reboot` a bus that is not there. Services that call `systemctl` in the start itself wait only until systemd accepts requests.
pub(crate) fn run() -> anyhow::Error {
    let socket = if nix::unistd::geteuid().is_root() { PRIVATE_SOCKET } else { BUS_SOCKET };
    let is_ready = || if is_command() { is_uncovered() } else { UnixStream::connect(socket).is_ok() };
    let deadline = Instant::now() + TIMEOUT;
    while !is_ready() && Instant::now() < deadline {
        std::thread::sleep(POLL_INTERVAL);
    }
    let mut arguments = std::env::args_os();
    let mut real = Command::new(REAL);
    // The name tells it what to do.
    real.arg0(arguments.next().unwrap_or_default()).args(arguments);
    anyhow::Error::new(real.exec()).context(format!("failed to execute {REAL}"))
}
