//! Transient scopes of systemd. Where systemd is PID 1 it owns the control groups, and every VM needs a unit of its own: in the node's unit
//! its VMM would keep the unit from being restarted, and in a group that systemd does not know nothing orders its end at a shutdown.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::command;
use crate::error::Error;

/// Folder that exists where systemd is PID 1 (sd_booted(3)).
const SYSTEMD: &str = "/run/systemd/system";
/// Maximum time for systemd to start a scope.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Part of systemd's message about a unit that there still is.
const NAME_TAKEN: &str = "already";
/// Part of its message about one that there is not.
const NOT_THERE: &str = "not loaded";
/// Time in which systemd lets a VMM end at a shutdown of the host.
const STOP_TIMEOUT: &str = "10s";
/// Program that holds a new scope open until a VMM has joined it: it prints what it reads, and ends with its input.
const HOLDER: &str = "cat";

/// Returns whether systemd is this machine's PID 1.
pub(super) fn is_systemd() -> bool {
    Path::new(SYSTEMD).is_dir()
}

/// Slice of an installation: the unit with the scopes of all its VMs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slice {
    /// Name without the suffix `.slice`.
    name: String,
}

impl Slice {
    /// Returns the slice of the installation whose groups are called `name`.
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned() }
    }

    /// Returns the slice whose group is `folder`, if that is the group of a slice.
    pub(super) fn at(folder: &Path) -> Option<Self> {
        folder.file_name()?.to_str()?.strip_suffix(".slice").map(Self::new)
    }

    fn unit(&self) -> String {
        format!("{}.slice", self.name)
    }

    /// Returns the group of the slice: dashes in its name stand for the slices around it (systemd.slice(5)).
    pub(super) fn folder(&self, root: &Path) -> PathBuf {
        let ends = self.name.match_indices('-').map(|(at, _)| at).chain([self.name.len()]);
        ends.filter_map(|end| self.name.get(..end)).map(|outer| format!("{outer}.slice")).fold(
            root.to_owned(),
            |mut path, slice| {
                path.push(slice);
                path
            },
        )
    }

    /// Returns the scope of a VM. The names of units are the whole machine's.
    pub(super) fn scope(&self, vm: &str) -> String {
        format!("{}{vm}.scope", self.prefix())
    }

    /// Returns the VM whose scope this is.
    pub(super) fn vm_of<'a>(&self, scope: &'a str) -> Option<&'a str> {
        scope.strip_prefix(&self.prefix())?.strip_suffix(".scope")
    }

    fn prefix(&self) -> String {
        format!("rigbox-vm-{}-", self.name.strip_prefix("rigbox-").unwrap_or(&self.name))
    }

    /// Starts the scope of a VM, which lasts until its last process has ended. An earlier one has to be gone.
    pub(super) fn start_scope(&self, vm: &str) -> Result<Holder, Error> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            match Holder::start(&self.systemd_run(vm), Instant::now() + START_TIMEOUT) {
                Err(Error::Program { output, .. })
                    if output.contains(NAME_TAKEN) && Instant::now() < deadline =>
                {
                    self.stop_scope(vm)?;
                }
                started => return started,
            }
        }
    }

    /// Stops the scope of a VM, with what is in it, if there is one.
    pub(super) fn stop_scope(&self, vm: &str) -> Result<(), Error> {
        match command::run("systemctl", &["stop", &self.scope(vm)]) {
            Err(Error::Program { output, .. }) if output.contains(NOT_THERE) => Ok(()),
            stopped => stopped.map(drop),
        }
    }

    fn systemd_run(&self, vm: &str) -> Vec<String> {
        let mut arguments = vec![
            "--scope".to_owned(),
            "--quiet".to_owned(),
            "--collect".to_owned(),
            format!("--slice={}", self.unit()),
            format!("--unit={}", self.scope(vm)),
            format!("--description=Rigbox VM {vm}"),
            // The groups below it are ours.
            "--property=Delegate=yes".to_owned(),
            format!("--property=TimeoutStopSec={STOP_TIMEOUT}"),
        ];
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        // At a shutdown units stop in the reverse order: the node must not see VMs end, and take that for their failure.
        arguments.extend(own_service(&own).map(|unit| format!("--property=Before={unit}")));
        arguments.extend(["--".to_owned(), HOLDER.to_owned()]);
        arguments
    }

    /// Limits the memory of all VMs together, in the unit: systemd would overwrite what is written to its group.
    pub(super) fn limit_memory(&self, bytes: u64) -> Result<(), Error> {
        command::run("systemctl", &["set-property", "--runtime", &self.unit(), &format!("MemoryMax={bytes}")])
            .map(drop)
    }

    /// Stops the slice and everything in it.
    pub(super) fn stop(&self) -> Result<(), Error> {
        command::run("systemctl", &["stop", &self.unit()])?;
        command::run("systemctl", &["revert", &self.unit()]).map(drop)
    }
}

/// Returns the service that a process is in, from its `/proc/PID/cgroup`.
fn own_service(cgroup: &str) -> Option<&str> {
    let group = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    group.split('/').find(|name| name.ends_with(".service"))
}

/// Process that keeps a new scope alive. It ends when this is dropped, or with the node.
#[derive(Debug)]
pub(crate) struct Holder {
    child: Child,
}

impl Holder {
    /// Runs `systemd-run`, which becomes the holder once the scope has started.
    fn start(arguments: &[String], deadline: Instant) -> Result<Self, Error> {
        let mut command = Command::new("systemd-run");
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().map_err(Error::system("run systemd-run"))?;
        let mut holder = Self { child };
        match holder.wait_ready(deadline) {
            Ok(()) => Ok(holder),
            Err(error) => Err(Error::Program {
                program: format!("systemd-run {}", arguments.join(" ")),
                output: format!("{error}: {}", holder.end()),
            }),
        }
    }

    /// Waits until a byte comes back, and with it the proof that the holder runs.
    fn wait_ready(&mut self, deadline: Instant) -> io::Result<()> {
        let closed = || io::Error::from(io::ErrorKind::BrokenPipe);
        self.child.stdin.as_mut().ok_or_else(closed)?.write_all(b"\n")?;
        let stdout = self.child.stdout.as_mut().ok_or_else(closed)?;
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        if poll(&mut [PollFd::new(stdout, PollFlags::IN)], Some(&timeout))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stdout.read_exact(&mut [0])
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends the process. Returns what it wrote to standard error.
    fn end(&mut self) -> String {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let mut text = String::new();
        if let Some(stderr) = self.child.stderr.take() {
            let _ = stderr.take(1024).read_to_string(&mut text);
        }
        text.trim().to_owned()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scope_of_a_vm_is_found_again_by_its_name() {
        let slice = Slice::new("rigbox-abcd2345");
        let folder = slice.folder(Path::new("/sys/fs/cgroup"));
        assert_eq!(folder, Path::new("/sys/fs/cgroup/rigbox.slice/rigbox-abcd2345.slice"));
        assert_eq!(Slice::at(&folder), Some(slice.clone()));
        assert_eq!(Slice::at(Path::new("/sys/fs/cgroup/rigbox-abcd2345")), None);
        let scope = slice.scope("ws-aaaa7777");
        assert_eq!(scope, "rigbox-vm-abcd2345-ws-aaaa7777.scope");
        assert_eq!(slice.vm_of(&scope), Some("ws-aaaa7777"));
        assert_eq!(slice.vm_of("rigbox-vm-other234-ws-aaaa7777.scope"), None);
    }

    #[test]
    fn service_of_the_node_is_known() {
        assert_eq!(own_service("0::/system.slice/rigboxd.service\n"), Some("rigboxd.service"));
        assert_eq!(own_service("0::/system.slice/rigboxd.service/roles\n"), Some("rigboxd.service"));
        assert_eq!(own_service("0::/user.slice/user-0.slice/session-1.scope\n"), None);
        assert_eq!(own_service("1:name=systemd:/system.slice/rigboxd.service\n0::/\n"), None);
    }

    #[test]
    fn failed_start_of_a_scope_is_reported_with_its_reason() {
        if is_systemd() {
            eprintln!("skipped: the machine has systemd, which would start the scope");
            return;
        }
        let arguments = Slice::new("rigbox-test").systemd_run("ws-x");
        let error = Holder::start(&arguments, Instant::now() + START_TIMEOUT).unwrap_err().to_string();
        assert!(error.contains("systemd-run"), "{error}");
    }
}
