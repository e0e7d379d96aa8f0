//! The host of its own: the suite starts itself again in fresh namespaces, under a first process that does nothing but reap.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, wait};

const STAGE: &str = "RIGBOX_TEST_STAGE";
/// The suite's scratch folder, outside and inside.
pub(crate) const SCRATCH: &str = "RIGBOX_TEST_SCRATCH";

pub(crate) enum Stage {
    Outside,
    Reaper,
    Inside,
}

pub(crate) fn stage() -> Stage {
    match std::env::var(STAGE).as_deref() {
        Ok("reaper") => Stage::Reaper,
        Ok("inside") => Stage::Inside,
        _ => Stage::Outside,
    }
}

/// Makes the namespaces and waits for the suite in them. When its first process ends, so does everything in it.
pub(crate) fn run_inside() -> ExitCode {
    let run = || -> Result<ExitCode> {
        anyhow::ensure!(nix::unistd::geteuid().is_root(), "the end-to-end tests make VMs: run them as root");
        let scratch = tempfile::Builder::new().prefix("rigbox-test-").tempdir()?;
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID)?;
        let status = Command::new(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .env(STAGE, "reaper")
            .env(SCRATCH, scratch.path())
            .status()?;
        remove_cgroups(scratch.path())?;
        Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    };
    run().unwrap_or_else(|error| {
        eprintln!("the test host cannot be made: {error:#}");
        ExitCode::FAILURE
    })
}

/// Control groups are the one thing of the suite that no namespace takes with it.
fn remove_cgroups(scratch: &std::path::Path) -> Result<()> {
    let Ok(installation) = std::fs::read_to_string(scratch.join("installation")) else { return Ok(()) };
    for group in crate::leftovers::cgroups(&installation).into_iter().rev() {
        std::fs::remove_dir(&group).with_context(|| group.display().to_string())?;
    }
    Ok(())
}

/// First process of the new pid namespace.
pub(crate) fn reap() -> ExitCode {
    let run = || -> Result<ExitCode> {
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none).context("/proc")?;
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=0755")).context("/run")?;
        rigbox_sys::network::bring_up("lo")?;
        let suite = Command::new(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .env(STAGE, "inside")
            .spawn()?;
        loop {
            match wait()? {
                WaitStatus::Exited(pid, code) if pid.as_raw() == suite.id().cast_signed() => {
                    return Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)));
                }
                WaitStatus::Signaled(pid, ..) if pid.as_raw() == suite.id().cast_signed() => {
                    return Ok(ExitCode::FAILURE);
                }
                _ => {}
            }
        }
    };
    run().unwrap_or_else(|error| {
        eprintln!("the test host's first process: {error:#}");
        ExitCode::FAILURE
    })
}

/// How a command ended, for messages.
pub(crate) fn ending(status: std::process::ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, signal) => format!("signal {signal:?}"),
    }
}
