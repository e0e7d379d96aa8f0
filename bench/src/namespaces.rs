//! Namespaces of a benchmark: network, mounts and processes of its own, so that ports, users and files are its own too, nothing of it reaches
//! another machine, and all of it ends with one process, however that ends.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rigbox_sys::spawn::{ChildSetup, configure_child};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Folder of the benchmark, in a `/run` of its own.
const FOLDER: &str = "/run/bench";

/// Runs this program with `arguments` as the first process of new namespaces. Must run while there is one thread.
pub(crate) fn run_inside<'a>(arguments: impl Iterator<Item = &'a str>) -> Result<()> {
    anyhow::ensure!(rustix::process::geteuid().is_root(), "the benchmark needs root to make namespaces");
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments).stdin(Stdio::piped());
    // Ctrl-C is for this process.
    configure_child(&mut command, ChildSetup { new_session: true, ..ChildSetup::default() });
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID)?;
    let mut inside = command.spawn()?;
    // Closed when this process ends, which ends the other one. Waiting would close it at once.
    let _input = inside.stdin.take();
    let status = inside.wait()?;
    anyhow::ensure!(status.success(), "the benchmark has failed ({status})");
    Ok(())
}

/// Prepares the namespaces. Returns the folder for files, which is in memory and ends with them.
pub(crate) fn prepare() -> Result<PathBuf> {
    std::thread::Builder::new().name("input".into()).spawn(end_with_input)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none).context("/proc")?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=0755")).context("/run")?;
    rigbox_sys::network::bring_up("lo")?;
    let folder = Path::new(FOLDER);
    fs::create_dir(folder)?;
    // Descriptors for many connections, in all processes.
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(folder.to_owned())
}

/// Shows what is at `source` at `target` too.
pub(crate) fn bind(source: &Path, target: &Path) -> Result<()> {
    let none = None::<&str>;
    mount(Some(source), target, none, MsFlags::MS_BIND, none).with_context(|| target.display().to_string())
}

/// Ends this process, and with it all others, once the one outside is gone.
fn end_with_input() {
    let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
    #[expect(clippy::disallowed_methods, reason = "what destructors would release ends with the namespaces")]
    std::process::exit(130);
}
