//! Jail of a VMM: its own uid, its own mount, pid, network, IPC and UTS namespaces, a root with nothing but the VMM's files and the VM's
//! kernel, no capabilities and no way to gain any, and bounded resources. An escape from the guest finds nothing there.
//!
//! The node never forks itself, because it has threads. It starts `rigboxd vmm-jail`, which receives the [`JailPlan`] and the descriptors,
//! joins the control groups, creates the namespaces and starts `rigboxd vmm-jail-inner` as the first process of the new pid namespace.
//! That one builds the root, drops all privileges and becomes the VMM.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::resource::{Resource, setrlimit};
use rigbox_sys::fdpass;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use serde::{Deserialize, Serialize};

use super::system_calls;
use crate::error::Error;
use crate::vmm::kind::VmmKind;

/// First descriptor that is passed to the VMM. The others follow it.
pub(crate) const FIRST_FD: i32 = 100;
/// First descriptor of what is mounted in the jail. None of them is left when the VMM begins.
const FIRST_TREE_FD: i32 = 200;
/// Namespaces of its own that every jail has, beside that of the network.
pub(crate) const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWNS
    .union(CloneFlags::CLONE_NEWPID)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS);
const MAX_PLAN_BYTES: usize = 64 * 1024;

/// Command to run in a jail, and the setup of that jail.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct JailPlan {
    /// Monitor, which decides about the system calls that the jail allows.
    pub(crate) vmm: VmmKind,
    /// `cgroup.procs` files of the control groups to join.
    pub(crate) cgroup_procs: Vec<PathBuf>,
    /// Folder with the VMM's own files, at the paths that it expects.
    pub(crate) root: PathBuf,
    /// Empty folder of the host on which the root is mounted.
    pub(crate) mount_point: PathBuf,
    /// Network namespace of the VM, for a VMM that attaches to the tap device by its name. Without one the jail's own is empty.
    pub(crate) netns: Option<PathBuf>,
    /// Files and folders that are mounted below `/vm`.
    pub(crate) files: Vec<JailFile>,
    /// Devices beside `null` and `urandom`.
    pub(crate) devices: Vec<Device>,
    pub(crate) uid: u32,
    /// Maximum size of a file that the VMM writes.
    pub(crate) max_file_bytes: u64,
    /// Program and arguments, with paths inside the jail.
    pub(crate) command: Vec<String>,
}

/// File or folder of the host that a VMM opens by a path below `/vm`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct JailFile {
    name: String,
    is_folder: bool,
    is_writable: bool,
    /// Sent beside the plan, so that what is mounted is what was opened.
    #[serde(skip)]
    fd: Option<OwnedFd>,
}

impl JailFile {
    /// Opens a file that the VMM may read.
    pub(crate) fn read_only(name: &str, path: &Path) -> Result<Self, Error> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| Error::at("open", path)(errno.into()))?;
        Ok(Self { name: name.to_owned(), is_folder: false, is_writable: false, fd: Some(fd) })
    }

    /// Takes a file that the VMM may write, as far as its owner and mode allow.
    pub(crate) fn writable(name: &str, fd: OwnedFd) -> Self {
        Self { name: name.to_owned(), is_folder: false, is_writable: true, fd: Some(fd) }
    }

    /// Takes a folder of the VMM.
    pub(crate) fn folder(name: &str, fd: OwnedFd) -> Self {
        Self { name: name.to_owned(), is_folder: true, is_writable: true, fd: Some(fd) }
    }
}

/// Device that a VMM opens by its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Device {
    Kvm,
    /// Only attaches to tap devices whose owner the VMM's uid is.
    Tun,
}

/// Standard output of a VMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stdout {
    Null,
    /// Pipe that loses what nobody reads. Its other end is opened at `/proc/<pid>/fd/1`.
    Pipe,
}

/// VMM that has been started.
pub(crate) struct Launched {
    pub(crate) pid: i32,
    /// Descriptor of the process, which never means another one.
    pub(crate) pidfd: OwnedFd,
    /// Standard error of the VMM or its jail; non-blocking.
    pub(crate) stderr: File,
}

/// Launches a plan, with `fds` as descriptors from [`FIRST_FD`] on.
pub(crate) fn launch(plan: &JailPlan, fds: &[BorrowedFd<'_>], stdout: Stdout) -> Result<Launched, Error> {
    let launch_error = |action: &str, error: io::Error| Error::Launch(format!("{action}: {error}"));
    let (socket, launcher_socket) = fdpass::pair().map_err(Error::system("create a socket pair"))?;
    let (stderr, stderr_writer) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(Error::system("create a pipe"))?;
    let flags = rustix::fs::fcntl_getfl(&stderr).map_err(Error::system("create a pipe"))?;
    rustix::fs::fcntl_setfl(&stderr, flags | rustix::fs::OFlags::NONBLOCK)
        .map_err(Error::system("create a pipe"))?;
    let stdout = match stdout {
        Stdout::Null => Stdio::null(),
        Stdout::Pipe => console_pipe().map_err(Error::system("create a pipe"))?.into(),
    };
    let mut launcher = Command::new("/proc/self/exe")
        .arg0("rigboxd")
        .arg("vmm-jail")
        .env_clear()
        .stdin(Stdio::from(launcher_socket))
        .stdout(stdout)
        .stderr(Stdio::from(stderr_writer))
        .spawn()
        .map_err(|error| launch_error("running the jail", error))?;
    let message =
        serde_json::to_vec(plan).map_err(|error| launch_error("serializing the plan", error.into()))?;
    let files = plan.files.iter().filter_map(|file| file.fd.as_ref()).map(AsFd::as_fd);
    let sent = fdpass::send(&socket, &message, &files.chain(fds.iter().copied()).collect::<Vec<_>>());
    let response = sent.and_then(|()| fdpass::receive(&socket, 64));
    // The launcher exits as soon as it has responded.
    let status = launcher.wait().map_err(|error| launch_error("running the jail", error))?;
    let mut stderr = File::from(stderr);
    let started = response.ok().and_then(|(pid, mut fds)| {
        let pid = String::from_utf8(pid).ok()?.parse().ok()?;
        Some((pid, fds.pop()?))
    });
    let (pid, pidfd) = started.ok_or_else(|| {
        Error::Launch(format!("the jail exited with {status}: {}", read_stderr(&mut stderr)))
    })?;
    Ok(Launched { pid, pidfd, stderr })
}

/// Returns a pipe in non-blocking mode, because the guest's console must not stop its CPU. It is open for reading as well: a VMM that writes to
/// a pipe without a reader gets `SIGPIPE`, and Firecracker 1.15.1, which logs that signal, waits forever for its own log if it comes from there.
fn console_pipe() -> rustix::io::Result<OwnedFd> {
    let (reader, _writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let path = format!("/proc/self/fd/{}", reader.as_raw_fd());
    rustix::fs::open(path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
}

/// Reads what has been written to a non-blocking standard error so far: at most 1 KiB, without control characters.
pub(crate) fn read_stderr(stderr: &mut File) -> String {
    let mut bytes = [0; 1024];
    let count = io::Read::read(stderr, &mut bytes).unwrap_or(0);
    let text = String::from_utf8_lossy(bytes.get(..count).unwrap_or_default()).into_owned();
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

/// Added to a VMM's score when the kernel runs out of memory: a VM ends before a role of ours or a service of the host.
const OOM_SCORE_ADJ: &str = "500";

/// Runs `rigboxd vmm-jail`, whose standard input is the socket to the node.
///
/// # Errors
/// The failed step, to print to standard error.
pub fn run_launcher() -> io::Result<()> {
    let socket = io::stdin();
    let (message, fds) = fdpass::receive(&socket, MAX_PLAN_BYTES)?;
    let plan: JailPlan = serde_json::from_slice(&message)?;
    for procs in &plan.cgroup_procs {
        fs::write(procs, "0").map_err(|error| with_path(procs, error))?;
    }
    nix::unistd::setsid()?;
    end_before_roles()?;
    let mut files = fds;
    let fds = files.split_off(plan.files.len().min(files.len()));
    // Before this process has mounts of its own: what it has now can be mounted there only as such a tree.
    let trees = files.iter().map(detached_tree).collect::<io::Result<_>>()?;
    let mut namespaces = NAMESPACES;
    match &plan.netns {
        Some(path) => {
            let netns = File::open(path).map_err(|error| with_path(path, error))?;
            setns(netns, CloneFlags::CLONE_NEWNET)?;
        }
        None => namespaces |= CloneFlags::CLONE_NEWNET,
    }
    unshare(namespaces)?;
    let kept = (renumber(fds, FIRST_FD)?, renumber(trees, FIRST_TREE_FD)?);
    let child = Command::new("/proc/self/exe")
        .arg0("rigboxd")
        .arg("vmm-jail-inner")
        .arg(String::from_utf8(message).map_err(io::Error::other)?)
        .env_clear()
        .stdin(Stdio::null())
        .spawn()?;
    drop(kept);
    // It is our child, so the number is its own. Once we have exited, only the descriptor still is.
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed())
        .ok_or_else(|| io::Error::other("the VMM has no pid"))?;
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::NONBLOCK)?;
    fdpass::send(&socket, child.id().to_string().as_bytes(), &[pidfd.as_fd()])
}

/// Has the kernel end this process, and what it starts, before a role when memory runs out.
fn end_before_roles() -> io::Result<()> {
    fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ)
}

/// Returns a mount of an open file or folder that is nowhere yet.
fn detached_tree(fd: &OwnedFd) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(fd, "", flags).map_err(|errno| with_path(Path::new("open_tree"), errno.into()))
}

/// Moves the descriptors to their final numbers and clears their close-on-exec flag. The process has a single thread, so no other child
/// inherits them.
fn renumber(fds: Vec<OwnedFd>, first: i32) -> io::Result<Vec<OwnedFd>> {
    let mut kept = Vec::new();
    for (number, fd) in (first..).zip(fds) {
        let moved = rustix::io::fcntl_dupfd_cloexec(&fd, number)?;
        if moved.as_raw_fd() != number {
            return Err(io::Error::other(format!("descriptor {number} is already in use")));
        }
        rustix::io::fcntl_setfd(&moved, rustix::io::FdFlags::empty())?;
        kept.push(moved);
    }
    Ok(kept)
}

fn with_path(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Runs `rigboxd vmm-jail-inner PLAN`, the first process of the new pid namespace, which becomes the VMM.
///
/// # Errors
/// The failed step, to print to standard error.
pub fn become_vmm(plan: &str) -> io::Result<std::convert::Infallible> {
    let plan: JailPlan = serde_json::from_str(plan)?;
    build_root(&plan)?;
    set_limits(&plan)?;
    drop_privileges(plan.uid)?;
    let (program, arguments) =
        plan.command.split_first().ok_or_else(|| io::Error::other("the plan has no command"))?;
    system_calls::confine(plan.vmm)?;
    let error = Command::new(program).args(arguments).env_clear().exec();
    Err(with_path(Path::new(program), error))
}

/// Bind-mounts `from` at `to`, read-only.
fn bind_read_only(from: &Path, to: &Path) -> io::Result<()> {
    let none = None::<&str>;
    let flags =
        MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some(from), to, none, MsFlags::MS_BIND, none).map_err(|errno| with_path(from, errno.into()))?;
    mount(none, to, none, flags, none).map_err(|errno| with_path(to, errno.into()))
}

fn mount_tmpfs(at: &Path, flags: MsFlags) -> io::Result<()> {
    let options = Some("size=64k,nr_inodes=64,mode=0755");
    mount(Some("tmpfs"), at, Some("tmpfs"), flags, options).map_err(|errno| with_path(at, errno.into()))
}

/// Mounts the tree with descriptor `number` at `to`, and closes it.
fn mount_tree(number: i32, file: &JailFile, to: &Path) -> io::Result<()> {
    let none = None::<&str>;
    if file.is_folder {
        fs::create_dir(to)?;
    } else {
        File::create(to)?;
    }
    let tree = format!("/proc/self/fd/{number}");
    move_mount(CWD, &*tree, CWD, to, MoveMountFlags::MOVE_MOUNT_F_SYMLINKS)
        .map_err(|errno| with_path(to, errno.into()))?;
    let mut flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    flags |= if file.is_writable { MsFlags::MS_NOEXEC } else { MsFlags::MS_RDONLY };
    mount(none, to, none, flags, none).map_err(|errno| with_path(to, errno.into()))?;
    mount(none, to, none, MsFlags::MS_PRIVATE, none).map_err(|errno| with_path(to, errno.into()))?;
    Ok(nix::unistd::close(number)?)
}

/// Builds a read-only root with the VMM's files, `/vm` and the devices, and switches to it.
fn build_root(plan: &JailPlan) -> io::Result<()> {
    let none = None::<&str>;
    // These mounts must not propagate to the host.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let root = &plan.mount_point;
    bind_read_only(&plan.root, root)?;

    let vm = root.join("vm");
    mount_tmpfs(&vm, MsFlags::MS_NOSUID | MsFlags::MS_NODEV)?;
    for (number, file) in (FIRST_TREE_FD..).zip(&plan.files) {
        mount_tree(number, file, &vm.join(&file.name))?;
    }
    let dev = root.join("dev");
    mount_tmpfs(&dev, MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC)?;
    let mut devices = vec![("null", 1, 3), ("urandom", 1, 9)];
    devices.extend(plan.devices.iter().map(|device| match device {
        Device::Kvm => ("kvm", 10, 232),
        Device::Tun => ("net/tun", 10, 200),
    }));
    for (name, major, minor) in devices {
        use nix::sys::stat::{Mode, SFlag, makedev, mknod};
        let path = dev.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        mknod(&path, SFlag::S_IFCHR, Mode::empty(), makedev(major, minor))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    }
    for (at, flag) in [(&vm, MsFlags::MS_NODEV), (&dev, MsFlags::MS_NOEXEC)] {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | flag;
        mount(none, at, none, flags, none)?;
    }
    std::env::set_current_dir(root)?;
    nix::unistd::pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    std::env::set_current_dir("/")
}

fn set_limits(plan: &JailPlan) -> io::Result<()> {
    for (resource, limit) in [
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_FSIZE, plan.max_file_bytes),
        (Resource::RLIMIT_NOFILE, 256),
        (Resource::RLIMIT_MEMLOCK, 64 * 1024),
    ] {
        setrlimit(resource, limit, limit)?;
    }
    Ok(())
}

fn drop_privileges(uid: u32) -> io::Result<()> {
    rigbox_sys::privileges::drop_to(uid)?;
    let ids = nix::unistd::getresuid()?;
    if [ids.real, ids.effective, ids.saved].iter().any(|id| id.as_raw() != uid) {
        return Err(io::Error::other("privileges were not dropped"));
    }
    Ok(())
}

/// Borrows descriptors for [`launch`].
pub(crate) fn borrow(fds: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    fds.iter().map(AsFd::as_fd).collect()
}

#[cfg(test)]
mod tests {
    use rigbox_testkit::in_own_process;

    use super::*;

    #[test]
    fn vmm_ends_before_other_processes_when_memory_runs_out() {
        if !in_own_process("sandbox::jail::tests::vmm_ends_before_other_processes_when_memory_runs_out") {
            return;
        }
        end_before_roles().unwrap();
        let score = Command::new("cat").arg("/proc/self/oom_score_adj").output().unwrap().stdout;
        assert_eq!(score, b"500\n", "what it starts inherits it");
    }

    #[test]
    fn vmm_writes_to_its_console_before_anybody_reads_it() {
        let mut console = File::from(console_pipe().unwrap());
        // Here it would be an error, and in a VMM with its own handler a signal.
        io::Write::write_all(&mut console, b"begins\n").unwrap();
        let reader = File::open(format!("/proc/self/fd/{}", console.as_raw_fd())).unwrap();
        while io::Write::write(&mut console, &[b'x'; 4096]).is_ok() {}
        let full = io::Write::write(&mut console, b"x").unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock, "what nobody reads is lost");
        drop(console);
        let read = io::read_to_string(reader).unwrap();
        assert!(read.starts_with("begins\n") && read.len() >= 4096, "{} bytes", read.len());
    }
}
