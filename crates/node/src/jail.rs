//! The jail that a VMM runs in: own uid, own mount, pid, network, IPC and UTS namespaces, a root that holds nothing but the VMM's own
//! files and the VM's kernel, no capabilities, no way to new ones, bounded resources. An escape from the guest lands in an empty room.
//!
//! The node never forks itself (it has threads). It starts `rigboxd vmm-jail`, which receives the [`Plan`] and the descriptors,
//! joins the control groups, makes the namespaces and starts `rigboxd vmm-jail-inner` as the new pid namespace's first process; that
//! one builds the root, gives everything up and becomes the VMM.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, setrlimit};
use rigbox_sys::fdpass;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// First descriptor that the VMM finds; the others follow.
pub(crate) const FIRST_FD: i32 = 100;
/// Longest plan, bytes.
const PLAN_LIMIT: usize = 64 * 1024;

/// What runs in the jail, and in which surroundings.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Files of the control groups to write `0` into.
    pub(crate) cgroup_procs: Vec<PathBuf>,
    /// The VMM's own files, with the paths that it expects (see `vmm::files`).
    pub(crate) root: PathBuf,
    /// An empty folder of the host that becomes the mount point.
    pub(crate) mount_point: PathBuf,
    /// Further files, read-only: path on the host, and below `/vm` in the jail.
    pub(crate) files: Vec<(PathBuf, String)>,
    /// Whether the VMM gets `/dev/kvm`.
    pub(crate) kvm: bool,
    pub(crate) uid: u32,
    /// No file may become larger, bytes.
    pub(crate) file_size_limit: u64,
    /// Program and arguments, as seen in the jail.
    pub(crate) command: Vec<String>,
}

/// A VMM that has been started.
pub(crate) struct Launched {
    pub(crate) pid: i32,
    /// What the VMM or its jail says on standard error; non-blocking.
    pub(crate) stderr: File,
}

/// Starts the plan with `fds` as descriptors [`FIRST_FD`] and following.
pub(crate) fn launch(plan: &Plan, fds: &[BorrowedFd<'_>]) -> Result<Launched, Error> {
    let launch_error = |what: &str, error: io::Error| Error::Launch(format!("{what}: {error}"));
    let (ours, theirs) = fdpass::pair().map_err(Error::system("a socket pair"))?;
    let (stderr, stderr_writer) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(Error::system("a pipe"))?;
    let flags = rustix::fs::fcntl_getfl(&stderr).map_err(Error::system("a pipe"))?;
    rustix::fs::fcntl_setfl(&stderr, flags | rustix::fs::OFlags::NONBLOCK)
        .map_err(Error::system("a pipe"))?;
    let mut launcher = Command::new("/proc/self/exe")
        .arg0("rigboxd")
        .arg("vmm-jail")
        .env_clear()
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::from(stderr_writer))
        .spawn()
        .map_err(|error| launch_error("the jail", error))?;
    let message = serde_json::to_vec(plan).map_err(|error| launch_error("the plan", error.into()))?;
    let sent = fdpass::send(&ours, &message, fds);
    let answer = sent.and_then(|()| fdpass::receive(&ours, 64));
    // The launcher ends as soon as it has answered.
    let status = launcher.wait().map_err(|error| launch_error("the jail", error))?;
    let mut stderr = File::from(stderr);
    let pid = answer
        .ok()
        .and_then(|(answer, _)| String::from_utf8(answer).ok()?.parse().ok())
        .ok_or_else(|| Error::Launch(format!("the jail ended with {status}: {}", said(&mut stderr))))?;
    Ok(Launched { pid, stderr })
}

/// What has been written to a non-blocking standard error so far: at most 1 KiB, without control characters.
pub(crate) fn said(stderr: &mut File) -> String {
    let mut bytes = [0; 1024];
    let count = io::Read::read(stderr, &mut bytes).unwrap_or(0);
    let text = String::from_utf8_lossy(bytes.get(..count).unwrap_or_default()).into_owned();
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

/// `rigboxd vmm-jail`: standard input is the socket to the node.
///
/// # Errors
/// What could not be done, for standard error.
pub fn outer() -> io::Result<()> {
    let socket = io::stdin();
    let (message, fds) = fdpass::receive(&socket, PLAN_LIMIT)?;
    let plan: Plan = serde_json::from_slice(&message)?;
    for procs in &plan.cgroup_procs {
        fs::write(procs, "0").map_err(|error| named(procs, error))?;
    }
    nix::unistd::setsid()?;
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS,
    )?;
    let kept = place(fds)?;
    let child = Command::new("/proc/self/exe")
        .arg0("rigboxd")
        .arg("vmm-jail-inner")
        .arg(String::from_utf8(message).map_err(io::Error::other)?)
        .env_clear()
        .stdin(Stdio::null())
        .spawn()?;
    drop(kept);
    fdpass::send(&socket, child.id().to_string().as_bytes(), &[])
}

/// Moves the descriptors to their places, where exec leaves them open. This process has one thread, so no other child gets them.
fn place(fds: Vec<OwnedFd>) -> io::Result<Vec<OwnedFd>> {
    let mut kept = Vec::new();
    for (place, fd) in (FIRST_FD..).zip(fds) {
        let placed = rustix::io::fcntl_dupfd_cloexec(&fd, place)?;
        if std::os::fd::AsRawFd::as_raw_fd(&placed) != place {
            return Err(io::Error::other(format!("descriptor {place} is taken")));
        }
        rustix::io::fcntl_setfd(&placed, rustix::io::FdFlags::empty())?;
        kept.push(placed);
    }
    Ok(kept)
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// `rigboxd vmm-jail-inner PLAN`: first process of the new pid namespace; becomes the VMM.
///
/// # Errors
/// What could not be done, for standard error.
pub fn inner(plan: &str) -> io::Result<std::convert::Infallible> {
    let plan: Plan = serde_json::from_str(plan)?;
    build_root(&plan)?;
    limit(&plan)?;
    give_up_everything(plan.uid)?;
    let (program, arguments) =
        plan.command.split_first().ok_or_else(|| io::Error::other("the plan names no program"))?;
    let error = Command::new(program).args(arguments).env_clear().current_dir("/").exec();
    Err(named(Path::new(program), error))
}

/// Shows `from` at `to`, read-only.
fn bind(from: &Path, to: &Path) -> io::Result<()> {
    let none = None::<&str>;
    let flags =
        MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some(from), to, none, MsFlags::MS_BIND, none).map_err(|errno| named(from, errno.into()))?;
    mount(none, to, none, flags, none).map_err(|errno| named(to, errno.into()))
}

fn tmpfs(at: &Path, flags: MsFlags) -> io::Result<()> {
    let options = Some("size=64k,nr_inodes=64,mode=0755");
    mount(Some("tmpfs"), at, Some("tmpfs"), flags, options).map_err(|errno| named(at, errno.into()))
}

/// A root with the VMM's files, `/vm` and three devices, all read-only.
fn build_root(plan: &Plan) -> io::Result<()> {
    let none = None::<&str>;
    // Nothing of this is to be seen outside.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let root = &plan.mount_point;
    bind(&plan.root, root)?;

    let vm = root.join("vm");
    tmpfs(&vm, MsFlags::MS_NOSUID | MsFlags::MS_NODEV)?;
    for (from, name) in &plan.files {
        let to = vm.join(name);
        File::create(&to)?;
        bind(from, &to)?;
    }
    let dev = root.join("dev");
    tmpfs(&dev, MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC)?;
    let mut devices = vec![("null", 1, 3), ("urandom", 1, 9)];
    if plan.kvm {
        devices.push(("kvm", 10, 232));
    }
    for (name, major, minor) in devices {
        use nix::sys::stat::{Mode, SFlag, makedev, mknod};
        let path = dev.join(name);
        mknod(&path, SFlag::S_IFCHR, Mode::empty(), makedev(major, minor))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    }
    for (at, more) in [(&vm, MsFlags::MS_NODEV), (&dev, MsFlags::MS_NOEXEC)] {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | more;
        mount(none, at, none, flags, none)?;
    }
    std::env::set_current_dir(root)?;
    nix::unistd::pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    std::env::set_current_dir("/")
}

fn limit(plan: &Plan) -> io::Result<()> {
    for (resource, limit) in [
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_FSIZE, plan.file_size_limit),
        (Resource::RLIMIT_NOFILE, 256),
        (Resource::RLIMIT_MEMLOCK, 64 * 1024),
    ] {
        setrlimit(resource, limit, limit)?;
    }
    Ok(())
}

fn give_up_everything(uid: u32) -> io::Result<()> {
    rigbox_sys::privileges::drop_to(uid)?;
    let left = nix::unistd::getresuid()?;
    if [left.real, left.effective, left.saved].iter().any(|id| id.as_raw() != uid) {
        return Err(io::Error::other("privileges were not given up"));
    }
    Ok(())
}

/// Borrows owned descriptors for [`launch`].
pub(crate) fn borrow(fds: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    fds.iter().map(AsFd::as_fd).collect()
}
