//! Changes of a workspace's network policy, each answered when it is in force on the node. The installation has no uplink: the rules in the
//! VM's namespace are the same with one.

use std::time::Instant;

use anyhow::Result;
use rigbox_testkit::report::{Measure, Target, median, progress};

use crate::installation::Installation;
use crate::workspaces::Workspaces;

const CHANGES: usize = 100;
/// Changes before the measurement.
const WARM_UP: usize = 4;

/// Measures changes for a VM that runs.
pub(super) fn measure(installation: &Installation) -> Result<Vec<Measure>> {
    progress("starting Rigbox and a VM");
    let key = installation.start()?;
    let mut api = Workspaces::connect(installation.port(), &key)?;
    let id = api.spawn(&format!("bench-{}-life", std::process::id()))?;
    progress("changes of its network policy");
    let mut times = Vec::new();
    for number in 0..WARM_UP + CHANGES {
        let mode = if number % 2 == 0 { "none" } else { "internet" };
        let started = Instant::now();
        api.set_egress(&id, mode)?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    api.delete(&id)?;
    let mut times = times.split_off(WARM_UP);
    let p50 = median(&mut times);
    // In order since the median.
    let p99 = times.get(CHANGES * 99 / 100 - 1).copied().unwrap_or(f64::NAN);
    Ok(vec![
        Measure::new("change of a network policy, p50", "ms", p50, None, Target::Below(50.0)),
        Measure::new("change of a network policy, p99", "ms", p99, None, Target::Below(50.0)),
    ])
}
