//! One role's process: takes its place (mount namespace, root, uid) while it is still root and has one thread, then runs.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, lchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{Installation, Role};

/// Folders that every role expects, made by the supervisor.
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
    folder(installation.state().join("node"), 0o700, 0)?;
    let private = installation.state().join("control");
    folder(private.clone(), 0o700, control)?;
    // The uids follow from the state folder's path, which may have been moved. Control writes this folder, so no link in it is followed.
    for entry in fs::read_dir(&private)? {
        match lchown(entry?.path(), Some(control), Some(control)) {
            // It may run, and replace a file.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            done => done?,
        }
    }
    Ok(())
}

/// Where control sees its part of the state, whatever folders above the state folder it may not enter.
pub(crate) fn private(installation: &Installation) -> PathBuf {
    installation.run().join("private")
}

/// Gives this process the surroundings of `role`.
pub(crate) fn enter(installation: &Installation, role: Role) -> Result<()> {
    let run = installation.run();
    match role {
        Role::Node => {}
        Role::Control => {
            own_mounts()?;
            let none = None::<&str>;
            let part = installation.state().join("control");
            mount(Some(&part), &private(installation), none, MsFlags::MS_BIND, none)
                .with_context(|| format!("cannot bind {}", part.display()))?;
        }
        Role::Guestio | Role::Edge => {
            std::env::set_current_dir(&run)?;
            nix::unistd::chroot(".").context("cannot make the run folder the root")?;
        }
    }
    if role != Role::Node {
        rigbox_sys::privileges::drop_to(installation.uid(role)).context("cannot give up root")?;
    }
    prctl::set_dumpable(false)?;
    Ok(())
}

fn own_mounts() -> Result<()> {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).context("cannot have mounts of its own")?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none).context("cannot have mounts of its own")
}

/// Ends this process when the supervisor ends, however it does. To be called after `enter`: a change of uid resets it.
pub(crate) fn end_with(supervisor: i32) -> Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    anyhow::ensure!(nix::unistd::getppid().as_raw() == supervisor, "the supervisor has ended already");
    Ok(())
}

/// What only root can get, before [`enter`]: edge's ports may be below 1024.
pub(crate) fn bind(installation: &Installation, role: Role) -> Result<Option<Box<rigbox_edge::Bound>>> {
    if role != Role::Edge {
        return Ok(None);
    }
    Ok(Some(Box::new(rigbox_edge::bind(installation.edge()?)?)))
}

/// Runs `role` until it is asked to end.
pub(crate) fn run(
    installation: &Installation,
    role: Role,
    bound: Option<Box<rigbox_edge::Bound>>,
) -> Result<()> {
    // Two threads are enough for a machine's traffic and keep the idle processes small.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let shutdown = async move {
            terminate.recv().await;
        };
        match role {
            Role::Node => rigbox_node::run(installation.node()?, shutdown).await?,
            Role::Edge => {
                let bound = bound.context("edge listens before it runs")?;
                bound.run(shutdown).await?;
            }
            Role::Guestio => rigbox_guestio::run(installation.guestio(), shutdown).await?,
            Role::Control => {
                let config = installation.control(&private(installation));
                rigbox_control::run(config, shutdown).await?;
            }
        }
        Ok(())
    })
}

/// Does something to the database beside a control role that may run, with its uid and its view of the files.
pub(crate) fn as_control<T>(
    installation: &Installation,
    work: impl AsyncFnOnce(rigbox_control::Config) -> Result<T, rigbox_control::Error>,
) -> Result<T> {
    prepare_folders(installation)?;
    enter(installation, Role::Control)?;
    let config = installation.control(&private(installation));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(work(config))?)
}

/// The lock that keeps a second supervisor from the same state folder; free again when its process has ended, however it did.
pub(crate) fn lock(state: &Path) -> Result<fs::File> {
    let path = state.join("lock");
    let file = fs::File::options().create(true).truncate(false).read(true).write(true).open(&path)?;
    if file.try_lock().is_err() {
        anyhow::bail!("Rigbox runs already with the state folder {}: stop it first", state.display());
    }
    Ok(file)
}
