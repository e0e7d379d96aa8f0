//! Operations at random, with deaths of VMMs among them.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use rigbox_conformance::any_of;
use rigbox_testkit::blocking::eventually;

use super::groups::{vmm_of, vmms};
use super::installation::{Installation, SETTLE_TIMEOUT, START_TIMEOUT, run};
use super::port::Port;

/// File that is there in a run at full length.
const SOAK: &str = "/opt/rigbox/soak";
/// Operations of a short run.
const FEW: u32 = 8;
/// Operations of a run at full length.
const MANY: u32 = 100;

/// Something that is done to a workspace.
#[derive(Debug, Clone, Copy)]
enum Operation {
    Start,
    Stop,
    Kill,
    Reboot,
    Execute,
    RestartService,
}

const ALL: [Operation; 6] = [
    Operation::Start,
    Operation::Stop,
    Operation::Kill,
    Operation::Reboot,
    Operation::Execute,
    Operation::RestartService,
];

/// Returns the number of operations.
pub(super) fn length() -> u32 {
    if Path::new(SOAK).exists() { MANY } else { FEW }
}

/// After each operation the workspace is what it has to be, and there is a VMM for each one that runs, and no other.
pub(super) fn random_operations_leave_what_they_must(rigbox: &Installation, port: &Port) -> Result<()> {
    let names = ["one", "two"];
    for number in 0..length() {
        let (name, operation) = (any_of(&names)?, any_of(&ALL)?);
        port.note(&format!("{number}: {operation:?} {name}"))?;
        perform(rigbox, name, operation)
            .with_context(|| format!("operation {number}, {operation:?} {name}"))?;
        let running = names.iter().map(|name| rigbox.field(name, "status"));
        let running =
            running.collect::<Result<Vec<_>>>()?.iter().filter(|status| *status == "running").count();
        let found = vmms()?;
        ensure!(found.len() == running, "{running} workspaces run, and there are {found:?}");
    }
    for name in names {
        perform(rigbox, name, Operation::Start)?;
        perform(rigbox, name, Operation::Execute)?;
    }
    Ok(())
}

fn perform(rigbox: &Installation, name: &str, operation: Operation) -> Result<()> {
    let is_running = rigbox.field(name, "status")? == "running";
    match operation {
        Operation::Start => {
            rigbox.rig(&["workspace", "start", name])?;
            rigbox.wait_status(name, "running", START_TIMEOUT)
        }
        Operation::Stop if is_running => {
            rigbox.rig(&["workspace", "stop", name])?;
            rigbox.wait_status(name, "stopped", SETTLE_TIMEOUT)
        }
        Operation::Kill if is_running => {
            run("kill", &["-9", &vmm_of(&rigbox.field(name, "id")?)?.pid.to_string()])?;
            rigbox.wait_status(name, "failed", SETTLE_TIMEOUT)
        }
        Operation::Reboot if is_running => {
            let id = rigbox.field(name, "id")?;
            let before = vmm_of(&id)?;
            // It may cut off its own answer.
            let _ = rigbox.exec(name, "sudo reboot -f");
            eventually("another VMM runs it", START_TIMEOUT, || {
                Ok((vmm_of(&id)? != before && rigbox.field(name, "status")? == "running").then_some(()))
            })
        }
        Operation::Execute if is_running => {
            let found = rigbox.exec(name, "echo $((6 * 7))")?;
            ensure!(found == "42", "it printed {found}");
            Ok(())
        }
        Operation::RestartService => {
            rigbox.wait_restarted(|| {
                run("systemctl", &["kill", "--signal=KILL", "rigboxd.service"]).map(drop)
            })?;
            if is_running { rigbox.wait_status(name, "running", SETTLE_TIMEOUT) } else { Ok(()) }
        }
        Operation::Stop | Operation::Kill | Operation::Reboot | Operation::Execute => Ok(()),
    }
}
