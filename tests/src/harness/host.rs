//! The host under test: network, mount and pid namespaces of their own, so that nothing of a test reaches this machine and all of it ends
//! with one process. The suite runs itself again in several stages:
//!
//! - `Outside` starts a host, or finds the one that was kept, and runs the suite inside it;
//! - `Host` owns the namespaces, and removes what they leave behind when they have ended;
//! - `Init` is the first process in them: it reaps, and everything ends with it;
//! - `Internet` plays the network around the host;
//! - `Inside` is the suite itself.
//!
//! A kept host (`cargo xtask test --only`) outlives its first run, so that the next one takes seconds.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::wait::{WaitStatus, wait};
use rigbox_testkit::blocking::eventually;

use crate::harness::internet::Internet;

const STAGE: &str = "RIGBOX_TEST_STAGE";
/// Folder of a host that is kept; `cargo xtask test --only` sets it.
const KEPT_HOST: &str = "RIGBOX_TEST_HOST";
/// Folder of the host, for the stages below `Outside`.
const FOLDER: &str = "RIGBOX_TEST_FOLDER";
const START_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) enum Stage {
    Outside,
    Host,
    Init,
    Internet,
    Inside,
}

pub(crate) fn stage() -> Stage {
    match std::env::var(STAGE).as_deref() {
        Ok("host") => Stage::Host,
        Ok("init") => Stage::Init,
        Ok("internet") => Stage::Internet,
        Ok("inside") => Stage::Inside,
        _ => Stage::Outside,
    }
}

/// Returns the folder for files of the suite and of the installation under test.
pub(crate) fn scratch() -> Result<PathBuf> {
    Ok(PathBuf::from(std::env::var_os(FOLDER).context("the host's folder")?).join("scratch"))
}

/// Returns whether the host outlives this run.
pub(crate) fn is_kept() -> bool {
    std::env::var_os(KEPT_HOST).is_some()
}

fn itself(stage: &str, folder: &Path) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1)).env(STAGE, stage).env(FOLDER, folder);
    Ok(command)
}

fn report(result: Result<ExitCode>, problem: &str) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("{problem}: {error:#}");
        ExitCode::FAILURE
    })
}

/// Runs the suite in a host of its own, or in the kept one.
pub(crate) fn run_outside() -> ExitCode {
    let run = || -> Result<ExitCode> {
        anyhow::ensure!(nix::unistd::geteuid().is_root(), "the end-to-end tests need root: they start VMs");
        let Some(folder) = std::env::var_os(KEPT_HOST).map(PathBuf::from) else {
            let folder = tempfile::Builder::new().prefix("rigbox-test-").tempdir()?;
            let mut host = itself("host", folder.path())?.stdin(Stdio::piped()).spawn()?;
            let ended = wait_ready(folder.path(), &mut host).and_then(|init| run_inside(folder.path(), init));
            // The end of its input ends the host.
            drop(host.stdin.take());
            anyhow::ensure!(host.wait()?.success(), "the host left something behind");
            return ended;
        };
        fs::create_dir_all(&folder)?;
        let init = if File::create(folder.join("lock"))?.try_lock().is_err() {
            init_pid(&folder)?.context("the kept host has no pid")?
        } else {
            // A host that ended with the machine has left its own.
            remove_leftovers(&folder)?;
            let log = File::create(folder.join("host.log"))?;
            let mut command = itself("host", &folder)?;
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            // It must not end with this terminal.
            let mut host = command.process_group(0).spawn()?;
            wait_ready(&folder, &mut host)?
        };
        run_inside(&folder, init)
    };
    report(run(), "the end-to-end tests cannot run")
}

fn init_pid(folder: &Path) -> Result<Option<i32>> {
    let Ok(pid) = fs::read_to_string(folder.join("init.pid")) else { return Ok(None) };
    Ok(Some(pid.trim().parse()?))
}

/// Waits until the host and the network around it are there; returns the pid of its first process.
fn wait_ready(folder: &Path, host: &mut Child) -> Result<i32> {
    let found = eventually("the host starts", START_TIMEOUT, || {
        if let Some(status) = host.try_wait()? {
            return Ok(Some(Err(ending(status))));
        }
        let ready = folder.join("scratch/ready").exists();
        Ok(init_pid(folder)?.filter(|_| ready).map(Ok))
    })?;
    found.map_err(|ending| anyhow::anyhow!("the host ended with {ending}"))
}

/// Runs the suite in the namespaces of a host.
fn run_inside(folder: &Path, init: i32) -> Result<ExitCode> {
    let open = |kind: &str| File::open(format!("/proc/{init}/ns/{kind}"));
    let (network, pids, mounts) = (open("net")?, open("pid")?, open("mnt")?);
    let (mut suite, current) = (itself("inside", folder)?, std::env::current_dir()?);
    setns(network, CloneFlags::CLONE_NEWNET)?;
    setns(pids, CloneFlags::CLONE_NEWPID)?;
    setns(mounts, CloneFlags::CLONE_NEWNS)?;
    std::env::set_current_dir(current)?;
    let status = suite.status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Owns the namespaces until their first process ends, and with it everything in them.
pub(crate) fn own() -> ExitCode {
    let run = || -> Result<ExitCode> {
        let folder = PathBuf::from(std::env::var_os(FOLDER).context("the host's folder")?);
        let lock = File::create(folder.join("lock"))?;
        lock.try_lock().context("another host is in this folder")?;
        let (scratch, pid) = (folder.join("scratch"), folder.join("init.pid"));
        fs::create_dir_all(&scratch)?;
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID)?;
        let mut init = itself("init", &folder)?.spawn()?;
        fs::write(&pid, init.id().to_string())?;
        // How it ends is of no interest: a kept host is ended by a signal.
        init.wait()?;
        remove_leftovers(&folder)?;
        Ok(ExitCode::SUCCESS)
    };
    report(run(), "the host under test")
}

/// Removes what a host that has ended leaves in its folder, and its control groups.
fn remove_leftovers(folder: &Path) -> Result<()> {
    let (scratch, pid) = (folder.join("scratch"), folder.join("init.pid"));
    if pid.exists() {
        fs::remove_file(&pid)?;
    }
    if scratch.exists() {
        remove_cgroups(&scratch)?;
        fs::remove_dir_all(&scratch)?;
    }
    Ok(())
}

/// Removes control groups, which no namespace takes with it.
fn remove_cgroups(scratch: &Path) -> Result<()> {
    let Ok(installation) = fs::read_to_string(scratch.join("installation")) else { return Ok(()) };
    for group in crate::recovery::leftovers::cgroups(&installation).into_iter().rev() {
        fs::remove_dir(&group).with_context(|| group.display().to_string())?;
    }
    Ok(())
}

/// First process of the pid namespace: reaps until the internet ends.
pub(crate) fn reap() -> ExitCode {
    let run = || -> Result<ExitCode> {
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none).context("/proc")?;
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=0755")).context("/run")?;
        rigbox_sys::network::bring_up("lo")?;
        let folder = PathBuf::from(std::env::var_os(FOLDER).context("the host's folder")?);
        let internet = itself("internet", &folder)?.spawn()?;
        loop {
            let (WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) = wait()? else { continue };
            if pid.as_raw() == internet.id().cast_signed() {
                return Ok(ExitCode::SUCCESS);
            }
        }
    };
    report(run(), "the host's first process")
}

/// Plays the internet until the run ends, or for ever in a kept host.
pub(crate) fn play_internet() -> ExitCode {
    let run = || -> Result<ExitCode> {
        let scratch = scratch()?;
        Internet::serve(&scratch)?;
        File::create(scratch.join("ready"))?;
        while is_kept() {
            std::thread::park();
        }
        std::io::stdin().read_to_end(&mut Vec::new())?;
        Ok(ExitCode::SUCCESS)
    };
    report(run(), "the internet")
}

/// Describes how a command ended.
pub(crate) fn ending(status: std::process::ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, signal) => format!("signal {signal:?}"),
    }
}
