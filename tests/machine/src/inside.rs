//! The half in the machine: runs the steps one after the other and sends what came of each. The step it is at is in a file, so that it goes on
//! there after a reboot.

mod counted;
mod groups;
pub(crate) mod growth;
mod installation;
mod port;
mod random;
mod tests;
mod traffic;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rigbox_conformance::Control;

use crate::events::Event;
use installation::Installation;
use port::Port;

/// Number of the step that has begun.
const PROGRESS: &str = "/var/lib/rigbox-machine";
/// Time from the request for a reboot to the end of all processes.
const REBOOT_TIMEOUT: Duration = Duration::from_secs(300);
/// Lines of the service's log that a failure quotes.
const LOG_LINES: &str = "40";

pub(crate) type Test = fn(&Installation, &Port) -> Result<()>;

/// Step of the run.
pub(crate) enum Step {
    /// Test that the others need: nothing runs after its failure.
    Needed(&'static str, Test),
    /// Test, whose name is a promise.
    Test(&'static str, Test),
    /// Conformance suite of VMM drivers.
    Conformance,
    /// Reboot of the machine.
    Reboot,
}

/// Returns the names of all tests, in their order.
pub(crate) fn test_names() -> Vec<&'static str> {
    let names = |step: &Step| match step {
        Step::Needed(name, _) | Step::Test(name, _) => vec![*name],
        Step::Conformance => rigbox_conformance::TESTS.iter().map(|(name, _)| *name).collect(),
        Step::Reboot => Vec::new(),
    };
    tests::STEPS.iter().flat_map(names).collect()
}

/// Runs the steps from where the run was before the machine's last boot.
pub(crate) fn run() -> Result<()> {
    let port = Port::open()?;
    port.keep_alive();
    let installation = Installation::new();
    let begun = read_progress()?;
    for (number, step) in tests::STEPS.iter().enumerate().skip(begun.unwrap_or(0)) {
        let is_back = begun == Some(number);
        write_progress(number)?;
        let (name, test, is_needed) = match step {
            Step::Conformance => {
                conform(&installation, &port, is_back)?;
                continue;
            }
            Step::Reboot if is_back => continue,
            Step::Reboot => return reboot(),
            Step::Needed(name, test) => (name, test, true),
            Step::Test(name, test) => (name, test, false),
        };
        let result = if is_back {
            Err(anyhow::anyhow!("the machine ended in the middle of it"))
        } else {
            test(&installation, &port)
        };
        let failure = result.err().map(|error| format!("{error:#}\n{}", log_tail()));
        let is_over = is_needed && failure.is_some();
        port.send(&Event::Test { name: (*name).to_owned(), failure })?;
        if is_over {
            break;
        }
    }
    port.send(&Event::End)
}

/// Runs the conformance suite, and sends what came of each test.
fn conform(installation: &Installation, port: &Port, is_back: bool) -> Result<()> {
    let opened = if is_back {
        Err(anyhow::anyhow!("the machine ended in the middle of it"))
    } else {
        installation.place()
    };
    let mut control = opened.and_then(Control::open);
    for (name, test) in rigbox_conformance::TESTS {
        let result = match &mut control {
            Ok(control) => test(control),
            Err(error) => Err(anyhow::anyhow!("{error:#}")),
        };
        let failure = result.err().map(|error| format!("{error:#}\n{}", log_tail()));
        port.send(&Event::Test { name: (*name).to_owned(), failure })?;
    }
    Ok(())
}

fn read_progress() -> Result<Option<usize>> {
    if !Path::new(PROGRESS).exists() {
        return Ok(None);
    }
    Ok(Some(fs::read_to_string(PROGRESS)?.trim().parse().context(PROGRESS)?))
}

/// Writes the progress so that a reboot does not lose it.
fn write_progress(number: usize) -> Result<()> {
    fs::write(PROGRESS, number.to_string())?;
    Ok(fs::File::open(PROGRESS)?.sync_all()?)
}

/// Reboots the machine, and waits for the end of this process with it.
fn reboot() -> Result<()> {
    installation::run("systemctl", &["reboot"])?;
    std::thread::sleep(REBOOT_TIMEOUT);
    bail!("the machine does not reboot")
}

fn log_tail() -> String {
    // Of the same line over and over, one is enough.
    let noise = "watch on control ended";
    let log = installation::run(
        "journalctl",
        &["-u", "rigboxd", "--no-pager", "-o", "cat", "-n", LOG_LINES, "--grep", &format!("^(?!.*{noise})")],
    );
    log.map_or_else(|error| format!("no log: {error:#}"), |log| format!("end of the service's log:\n{log}"))
}
