//! Bare VM without Rigbox: QEMU with Rigbox's command line, a clone of the same disk, the same modules, and `bare-init` as `/init`.
//!
//! The command line differs in four points: the paths of kernel and initramfs; the console, which is read here and kept in memory there; the
//! network device, which is connected to nothing here and to a tap there; and the jail, which is missing.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rigbox_image::{default_cache_dir, find_newest, init_archive};
use rigbox_sys::spawn::{ChildSetup, configure_child};

use crate::host::command_line;
use crate::installation::{Installation, program};

const CONSOLE_TIMEOUT: Duration = Duration::from_secs(120);
/// Limit for a read from the port, on which 100 MB may be queued.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Recipe of bare VMs.
pub(crate) struct BareVm<'a> {
    installation: &'a Installation,
    command: Vec<String>,
    image: PathBuf,
    initramfs: PathBuf,
    disk_bytes: u64,
}

/// Program after the root is mounted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workload {
    /// systemd, with status messages on the console.
    Systemd,
    /// `bareinit`'s `serve` on the agent's port.
    Serve,
}

impl<'a> BareVm<'a> {
    /// Returns the recipe that corresponds to the VM with the VMM `pid`.
    pub(crate) fn for_vmm(installation: &'a Installation, pid: u32, disk_bytes: u64) -> Result<Self> {
        let version = find_newest(&default_cache_dir()?, "base")?.version;
        let image = installation.volume()?.join("images").join(version);
        let mut initramfs = fs::read(image.join("modules.cpio"))?;
        initramfs.extend(init_archive(&fs::read(program("guest/bare-init")?)?));
        let path = installation.dir().join("bare-initramfs.cpio");
        fs::write(&path, initramfs)?;
        Ok(Self { installation, command: command_line(pid)?, image, initramfs: path, disk_bytes })
    }

    /// Clones the image's root file system to `path`, as the node does for a workspace.
    pub(crate) fn clone_disk(&self, path: &Path) -> Result<()> {
        Ok(rigbox_node::clone_disk(&self.image.join("rootfs.ext4"), path, self.disk_bytes)?)
    }

    /// Returns a path for a disk on the volume.
    pub(crate) fn disk_path(&self) -> PathBuf {
        self.image.with_file_name("bench.ext4")
    }

    fn arguments(&self, workload: Workload) -> Vec<String> {
        let mut words = self.command.iter().skip(1).cloned();
        let mut arguments = Vec::new();
        while let Some(word) = words.next() {
            let option = word.clone();
            arguments.push(word);
            if !matches!(option.as_str(), "-kernel" | "-initrd" | "-append" | "-chardev" | "-netdev") {
                continue;
            }
            let Some(value) = words.next() else { break };
            arguments.push(match option.as_str() {
                "-kernel" => self.image.join("vmlinux").display().to_string(),
                "-initrd" => self.initramfs.display().to_string(),
                // About 5 kB of status messages take systemd a few ms.
                "-append" if workload == Workload::Systemd => format!("{value} systemd.show_status=1"),
                "-append" => format!("{value} bare.serve"),
                "-chardev" if value.contains("id=console") => "stdio,id=console,signal=off".to_owned(),
                "-netdev" => "hubport,id=net,hubid=0".to_owned(),
                _ => value,
            });
        }
        arguments
    }

    /// Starts a VM on a new disk.
    pub(crate) fn start(&self, workload: Workload) -> Result<Vm<'a>> {
        let disk = self.disk_path();
        let sockets = ["bare-agent.sock", "bare-streams.sock", "bare-monitor.sock"]
            .map(|name| self.installation.dir().join(name));
        for path in sockets.iter().chain([&disk]) {
            let _ = fs::remove_file(path);
        }
        let [agent, streams, monitor] = &sockets;
        let started = Instant::now();
        self.clone_disk(&disk)?;
        let descriptors: [(i32, OwnedFd); 4] = [
            (DISK_FD, File::options().read(true).write(true).open(&disk)?.into()),
            (AGENT_FD, UnixListener::bind(agent)?.into()),
            (STREAMS_FD, UnixListener::bind(streams)?.into()),
            (MONITOR_FD, UnixListener::bind(monitor)?.into()),
        ];
        let descriptors =
            descriptors.into_iter().map(|(at, fd)| dup_to(&fd, at)).collect::<Result<Vec<_>>>()?;
        let qemu = self.command.first().context("an empty command line")?;
        let mut command = Command::new(qemu);
        command.args(self.arguments(workload)).env_clear().stdin(Stdio::null()).stdout(Stdio::piped());
        configure_child(&mut command, ChildSetup::default());
        let mut child = command.spawn().with_context(|| qemu.clone())?;
        drop(descriptors);
        let console = read_console(child.stdout.take().context("no console")?);
        let pid = self.installation.adopt(child);
        Ok(Vm { installation: self.installation, pid, started, console, agent: agent.clone(), disk })
    }
}

/// Numbers of a VM's descriptors, as the node assigns them.
const DISK_FD: i32 = 100;
const AGENT_FD: i32 = 102;
const STREAMS_FD: i32 = 103;
const MONITOR_FD: i32 = 104;

/// Duplicates `fd` to the number `at` for a child.
fn dup_to(fd: &OwnedFd, at: i32) -> Result<OwnedFd> {
    let copy = rustix::io::fcntl_dupfd_cloexec(fd, at)?;
    anyhow::ensure!(copy.as_raw_fd() == at, "descriptor {at} is taken");
    rustix::io::fcntl_setfd(&copy, rustix::io::FdFlags::empty())?;
    Ok(copy)
}

/// Lines of a console that nobody has waited for yet; the VM waits beyond them.
const MAX_PENDING_LINES: usize = 100_000;

/// Returns lines of the console with their times.
fn read_console(console: impl Read + Send + 'static) -> Receiver<(Instant, String)> {
    let (sender, lines) = sync_channel(MAX_PENDING_LINES);
    std::thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
            if sender.send((Instant::now(), String::from_utf8_lossy(&line).into_owned())).is_err() {
                return;
            }
        }
    });
    lines
}

/// Running bare VM. Ends when dropped, and its disk is removed.
pub(crate) struct Vm<'a> {
    installation: &'a Installation,
    pub(crate) pid: u32,
    started: Instant,
    console: Receiver<(Instant, String)>,
    agent: PathBuf,
    disk: PathBuf,
}

impl Vm<'_> {
    /// Returns the time from the start until a line of the console contains all of `words`.
    pub(crate) fn wait_for(&self, words: &[&str]) -> Result<Duration> {
        let deadline = Instant::now() + CONSOLE_TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let (at, line) =
                self.console.recv_timeout(left).with_context(|| format!("no console line with {words:?}"))?;
            if words.iter().all(|word| line.contains(word)) {
                return Ok(at - self.started);
            }
        }
    }

    /// Connects to the agent's port of a VM that serves.
    pub(crate) fn port(&self) -> Result<Port> {
        self.wait_for(&["bare: serving"])?;
        let stream = UnixStream::connect(&self.agent)?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        Ok(Port(stream))
    }
}

impl Drop for Vm<'_> {
    fn drop(&mut self) {
        self.installation.end(self.pid);
        let _ = fs::remove_file(&self.disk);
    }
}

/// Client of `bareinit`'s `serve`: a letter and a number of bytes, then the data.
pub(crate) struct Port(UnixStream);

impl Port {
    fn request(&mut self, kind: u8, count: usize) -> Result<()> {
        let mut request = vec![kind];
        request.extend(u32::try_from(count)?.to_le_bytes());
        Ok(self.0.write_all(&request)?)
    }

    /// Sends `bytes` and reads as many.
    pub(crate) fn echo(&mut self, bytes: &mut [u8]) -> Result<()> {
        let mut request = vec![b'e'];
        request.extend(u32::try_from(bytes.len())?.to_le_bytes());
        request.extend_from_slice(bytes);
        self.0.write_all(&request)?;
        Ok(self.0.read_exact(bytes)?)
    }

    /// Writes the file that [`Self::bulk`] reads.
    pub(crate) fn write_file(&mut self, content: &[u8]) -> Result<()> {
        self.request(b'f', content.len())?;
        self.0.write_all(content)?;
        let mut done = [0];
        Ok(self.0.read_exact(&mut done)?)
    }

    /// Reads the file `times` times through a pipe, and passes the data to `output`.
    pub(crate) fn bulk(
        &mut self,
        times: usize,
        mut left: usize,
        mut output: impl FnMut(&[u8]),
    ) -> Result<()> {
        self.request(b'p', times)?;
        let mut chunk = vec![0; 64 * 1024];
        while left > 0 {
            let count = self.0.read(&mut chunk)?;
            anyhow::ensure!(count > 0, "the port closed");
            output(chunk.get(..count).unwrap_or_default());
            left = left.checked_sub(count).context("received more than was sent")?;
        }
        Ok(())
    }
}
