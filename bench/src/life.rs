//! Benchmark `life`: recovery of both sides after `kill -9`, the cost of reports, and the time until a change of the network policy is in
//! force.
//!
//! For the first two, one process has the real reconciler, database and tasks of a node, connected by the node's socket. Database and
//! journal are files that are written as in production. The VMs are not there, so that there can be more than a machine boots.

use std::time::Duration;

use anyhow::Result;
use rigbox_testkit::report::{Measure, Target, median, progress};

mod control;
mod machine;
mod node;
mod policy;
mod process;

pub(crate) use process::serve;

use crate::host;
use crate::installation::Installation;
use process::Process;

const FEW_VMS: u32 = 50;
const MANY_VMS: u32 = 1_000;
/// Workspaces of which each changes once a second.
const REPORTING_VMS: u32 = 200;
const REPORT_SECONDS: u32 = 10;
/// Time after which a process that has recovered is idle.
const SETTLE_TIME: Duration = Duration::from_secs(2);

/// Runs what needs no VM, with progress on standard error.
pub(crate) fn measure_records(rounds: u32) -> Result<Vec<Measure>> {
    let few = recovery(FEW_VMS, rounds)?;
    let many = recovery(MANY_VMS, rounds)?;
    Ok(vec![
        Measure::new("recovery of 50 running VMs after kill -9", "s", few, None, Target::Below(2.0)),
        Measure::succeeded("recovery of 1,000 running VMs after kill -9", "s", many, "all are known"),
        reports(rounds)?,
    ])
}

/// Runs what needs a VM.
pub(crate) fn measure_policy(installation: &Installation) -> Result<Vec<Measure>> {
    policy::measure(installation)
}

/// Returns the median time in seconds from the start of control and node, which were killed, until control has stored the report of each
/// workspace, and is synchronized.
fn recovery(workspaces: u32, rounds: u32) -> Result<f64> {
    let folder = tempfile::Builder::new().prefix("rigbox-bench-").tempdir()?;
    progress(&format!("{workspaces} workspaces are created and started"));
    drop(Process::start(folder.path(), workspaces)?);
    let mut times = Vec::new();
    for round in 1..=rounds {
        let (process, took) = Process::start(folder.path(), workspaces)?;
        drop(process);
        progress(&format!("round {round} of {rounds}: {:.3} s", took.as_secs_f64()));
        times.push(took.as_secs_f64());
    }
    Ok(median(&mut times))
}

/// Measures the CPU time of both sides together while workspaces change.
fn reports(rounds: u32) -> Result<Measure> {
    let folder = tempfile::Builder::new().prefix("rigbox-bench-").tempdir()?;
    progress(&format!("{REPORTING_VMS} workspaces, each with a report a second"));
    let (mut process, _) = Process::start(folder.path(), REPORTING_VMS)?;
    let mut shares = Vec::new();
    for round in 1..=rounds {
        std::thread::sleep(SETTLE_TIME);
        let before = host::cpu_time(process.pid())?;
        process.report(REPORT_SECONDS)?;
        let used = host::cpu_time(process.pid())? - before;
        let share = used / f64::from(REPORT_SECONDS) * 100.0;
        progress(&format!("round {round} of {rounds}: {share:.1} % of a core"));
        shares.push(share);
    }
    Ok(Measure::new("200 reports a second, of a core", "%", median(&mut shares), None, Target::Below(10.0)))
}
