//! Process of one role: confines itself (mount namespace, root, uid) while it is root and single-threaded, then runs.

mod confinement;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid};
use rustix::fs::{AtFlags, Mode, OFlags};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{Installation, Role};

/// Open files of a role. What a role holds for its clients is bounded below it.
const MAX_OPEN_FILES: u64 = 65_536;
/// VMMs have +500, so that one VM ends before the installation does.
const OOM_SCORE_ADJ: &str = "-900";

/// Creates the folders that the roles expect.
pub(crate) fn prepare_folders(installation: &Installation) -> Result<()> {
    let run = installation.run();
    let folder = |path: PathBuf, mode: u32, uid: u32| -> Result<()> {
        fs::create_dir_all(&path)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(mode)))
            .and_then(|()| chown(&path, Some(uid), Some(uid)))
            .with_context(|| format!("cannot prepare {}", path.display()))
    };
    let control = installation.uid(Role::Control);
    folder(run.clone(), 0o755, 0)?;
    folder(run.join("private"), 0o755, 0)?;
    folder(run.join("node"), 0o755, 0)?;
    folder(run.join("node/own"), 0o700, 0)?;
    folder(run.join("guestio"), 0o755, installation.uid(Role::Guestio))?;
    folder(run.join("control"), 0o755, control)?;
    folder(run.join("edge"), 0o755, 0)?;
    folder(run.join("ssh"), 0o755, 0)?;
    folder(run.join("ai"), 0o755, installation.uid(Role::Ai))?;
    folder(run.join("guest"), 0o755, 0)?;
    folder(installation.state().join("node"), 0o700, 0)?;
    let private = installation.state().join("control");
    folder(private.clone(), 0o700, control)?;
    // The uids derive from the state folder's path, which may have changed. Control can write here, so links are not followed.
    for entry in fs::read_dir(&private)? {
        match give(&entry?.path(), control) {
            // Control may be running and replace a file.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            result => result?,
        }
    }
    Ok(())
}

/// Gives a file to `uid`, unless it has another name as well: that may be a file of somebody else, to which control made a link.
fn give(path: &Path, uid: u32) -> std::io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = fs::File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let meta = file.metadata()?;
    if meta.uid() == uid || (meta.nlink() > 1 && !meta.is_dir()) {
        return Ok(());
    }
    let (uid, gid) = (Some(rustix::fs::Uid::from_raw(uid)), Some(rustix::fs::Gid::from_raw(uid)));
    Ok(rustix::fs::chownat(&file, "", uid, gid, AtFlags::EMPTY_PATH)?)
}

/// Returns the path at which control sees its part of the state: it may not enter the folders above the state folder.
pub(crate) fn control_state(installation: &Installation) -> PathBuf {
    installation.run().join("private")
}

/// Prepares this process for a role's life: without the terminal of whoever started the installation, with room for descriptors, and as
/// the last that the kernel ends when memory runs out.
pub(crate) fn prepare_process() -> Result<()> {
    nix::unistd::setsid().context("cannot leave the terminal's session")?;
    // A container may lack the capability for either (CAP_SYS_RESOURCE): the role then has what its starter had.
    if setrlimit(Resource::RLIMIT_NOFILE, MAX_OPEN_FILES, MAX_OPEN_FILES).is_err() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot raise the limit of open files")?;
    }
    if let Err(error) = fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ) {
        tracing::info!(%error, "the kernel refused a lower oom_score_adj; the role may end when memory runs out");
    }
    Ok(())
}

/// Confines this process to what `role` needs.
pub(crate) fn confine(installation: &Installation, role: Role) -> Result<()> {
    let run = installation.run();
    match role {
        Role::Node => {}
        Role::Control => {
            unshare_mounts()?;
            let none = None::<&str>;
            let part = installation.state().join("control");
            mount(Some(&part), &control_state(installation), none, MsFlags::MS_BIND, none)
                .with_context(|| format!("cannot bind {}", part.display()))?;
        }
        Role::Guestio | Role::Edge | Role::Ssh | Role::Ai => {
            std::env::set_current_dir(&run)?;
            nix::unistd::chroot(".").context("cannot change the root to the run folder")?;
        }
    }
    confinement::limit_memory(role).context("cannot limit the role's memory")?;
    if role != Role::Node {
        rigbox_sys::privileges::drop_to(installation.uid(role)).context("cannot drop root")?;
    }
    prctl::set_dumpable(false)?;
    Ok(())
}

fn unshare_mounts() -> Result<()> {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).context("cannot unshare mounts")?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none).context("cannot unshare mounts")
}

/// Makes the kernel end this process with the supervisor. Must follow [`confine`], because a change of uid resets it.
pub(crate) fn end_with_supervisor(supervisor: i32) -> Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    anyhow::ensure!(nix::unistd::getppid().as_raw() == supervisor, "the supervisor has already ended");
    Ok(())
}

/// Limits this process to the system calls of its role. Comes last before [`run`].
pub(crate) fn limit_system_calls(role: Role) -> Result<()> {
    confinement::limit_system_calls(role).context("cannot install the filter of system calls")
}

/// Gateway with what it takes from the host before it is confined.
pub(crate) enum BoundGateway {
    Edge(Box<rigbox_edge::Bound>),
    Ssh(Box<rigbox_ssh::Bound>),
    Ai(Box<rigbox_ai::Bound>),
}

/// Binds a gateway's ports, before [`confine`]: those below 1024 need root. Also reads the host's files that it needs.
pub(crate) fn bind(installation: &Installation, role: Role) -> Result<Option<BoundGateway>> {
    let bound = match role {
        Role::Edge => BoundGateway::Edge(Box::new(rigbox_edge::bind(installation.edge()?)?)),
        Role::Ssh => BoundGateway::Ssh(Box::new(rigbox_ssh::bind(installation.ssh())?)),
        Role::Ai => BoundGateway::Ai(Box::new(rigbox_ai::bind(installation.ai())?)),
        Role::Control | Role::Guestio | Role::Node => return Ok(None),
    };
    let listeners: Vec<_> = match &bound {
        BoundGateway::Edge(edge) => edge.listeners().collect(),
        BoundGateway::Ssh(ssh) => vec![ssh.listener()],
        BoundGateway::Ai(_) => vec![],
    };
    let owner = installation.uid(role);
    for listener in listeners {
        // Otherwise root's, and with it every connection that it accepts: rules that go by the owner would not hold for them.
        nix::unistd::fchown(listener, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)))
            .context("cannot give the gateway its sockets")?;
    }
    Ok(Some(bound))
}

/// Runs `role` until SIGTERM.
pub(crate) fn run(installation: &Installation, role: Role, bound: Option<BoundGateway>) -> Result<()> {
    // It has 10,000 connections, and no key of an operator or a user at a provider.
    if matches!(role, Role::Edge) {
        rigbox_sys::allocator::stop_wiping();
    }
    // Two threads are enough for one machine's traffic, and keep idle processes small.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let shutdown = async move {
            terminate.recv().await;
        };
        match (role, bound) {
            (_, Some(BoundGateway::Edge(edge))) => edge.run(shutdown).await?,
            (_, Some(BoundGateway::Ssh(ssh))) => ssh.run(shutdown).await?,
            (_, Some(BoundGateway::Ai(ai))) => ai.run(shutdown).await?,
            (Role::Node, None) => rigbox_node::run(installation.node()?, shutdown).await?,
            (Role::Edge | Role::Ssh | Role::Ai, None) => anyhow::bail!("the gateway is not bound"),
            (Role::Guestio, None) => rigbox_guestio::run(installation.guestio(), shutdown).await?,
            (Role::Control, None) => {
                let config = installation.control(&control_state(installation));
                rigbox_control::run(config, shutdown).await?;
            }
        }
        Ok(())
    })
}

/// Runs `work` on the database with control's uid and view of the files, whether the control role is running or not.
pub(crate) fn as_control<T>(
    installation: &Installation,
    work: impl AsyncFnOnce(rigbox_control::Config) -> Result<T, rigbox_control::Error>,
) -> Result<T> {
    prepare_folders(installation)?;
    confine(installation, Role::Control)?;
    let config = installation.control(&control_state(installation));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(work(config))?)
}

/// Locks the state folder against a second supervisor. The lock is released when the process ends.
pub(crate) fn lock(state: &Path) -> Result<fs::File> {
    let path = state.join("lock");
    let file = fs::File::options().create(true).truncate(false).read(true).write(true).open(&path)?;
    if file.try_lock().is_err() {
        anyhow::bail!("Rigbox is already running with the state folder {}; stop it first", state.display());
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn role_is_the_last_to_end_when_memory_runs_out() {
        if !rigbox_testkit::in_own_process("role::tests::role_is_the_last_to_end_when_memory_runs_out") {
            return;
        }
        // A VMM has 500, what the host runs has 0.
        assert!(OOM_SCORE_ADJ.parse::<i32>().unwrap() < 0);
        let is_allowed = fs::write("/proc/self/oom_score_adj", "-1").is_ok();
        prepare_process().unwrap();
        if is_allowed {
            let score = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
            assert_eq!(score.trim(), OOM_SCORE_ADJ);
        } else {
            eprintln!("skipped: this process lacks the capability to lower its score (CAP_SYS_RESOURCE)");
        }
    }

    #[test]
    fn file_with_another_name_is_given_to_nobody() {
        if !Uid::effective().is_root() {
            eprintln!("skipped: files change their owner by root only");
            return;
        }
        const CONTROL: u32 = 1_900_000_001;
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("database"), "").unwrap();
        fs::write(path("foreign"), "").unwrap();
        fs::hard_link(path("foreign"), path("hard")).unwrap();
        std::os::unix::fs::symlink(path("foreign"), path("symbolic")).unwrap();
        for name in ["database", "hard", "symbolic"] {
            give(&path(name), CONTROL).unwrap();
        }
        let owner = |name: &str| fs::symlink_metadata(path(name)).unwrap().uid();
        assert_eq!([owner("database"), owner("symbolic"), owner("foreign")], [CONTROL, CONTROL, 0]);
    }
}
