//! Benchmark `neighbor`: what an honest tenant waits for beside a hostile VM, and beside one that merely computes, in turns.

mod honest;
mod hostile;

use std::time::Duration;

use anyhow::Result;

use crate::host;
use crate::installation::Installation;
use crate::report::{Measure, Target, median, progress};
use crate::workspaces::Workspaces;
use honest::{Honest, Times};
use hostile::Neighbor;

/// How many times as long a call may take.
const MAX_RATIO: f64 = 3.0;
/// Time in which a neighbor's VM, and what it has left on the host, comes to rest.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// Runs the benchmark, with progress on standard error.
pub(crate) fn measure(installation: &Installation, rounds: u32) -> Result<Vec<Measure>> {
    progress("starting Rigbox");
    let key = installation.start()?;
    progress("the honest tenant and its neighbor");
    let mut api = Workspaces::connect(installation.port(), &key)?;
    let name = format!("bench-neighbor-{}", std::process::id());
    let neighbor = Neighbor::new(installation.port(), &key, api.spawn(&name)?)?;
    let mut honest = Honest::new(installation, &key)?;
    let (mut beside_hostile, mut beside_computing) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        for (is_hostile, times) in [(false, &mut beside_computing), (true, &mut beside_hostile)] {
            host::wait_idle(host::vmm(&name)?, IDLE_TIMEOUT)?;
            let load = if is_hostile { neighbor.harms()? } else { neighbor.computes()? };
            let measured = honest.measure()?;
            drop(load);
            let kind = if is_hostile { "hostile" } else { "computing" };
            progress(&format!("round {round} of {rounds}, {kind}: {measured}"));
            times.push(measured);
        }
    }
    let measure = |name, unit, of: fn(&Times) -> f64| {
        let [ours, theirs] = [&beside_hostile, &beside_computing]
            .map(|times| median(&mut times.iter().map(of).collect::<Vec<_>>()));
        Measure::new(name, unit, ours, Some(theirs), Target::AtMostTimes(MAX_RATIO))
    };
    Ok(vec![
        measure("exec of true beside a hostile VM", "ms", |times| times.exec_ms),
        measure("request to an app beside a hostile VM", "ms", |times| times.app_ms),
        measure("terminal's echo beside a hostile VM", "ms", |times| times.echo_ms),
        measure("spawn to first output beside a hostile VM", "s", |times| times.spawn_s),
    ])
}
