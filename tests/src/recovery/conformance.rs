//! The conformance suite of VMM drivers, on the one that this host runs.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};
use libtest_mimic::Trial;
use rigbox_conformance::{Control, Place, TESTS, Test};
use rigbox_node::Effect;
use rigbox_testkit::blocking::eventually;

use super::kill_points::armed::{KillPoints, restart};
use crate::harness::installation::Installation;
use crate::harness::is_soak;

/// Rounds in which each point is reached at last: a kill early in a save keeps it from what comes later.
const ROUNDS: u8 = 8;
/// Operations at random of a short run.
const OPERATIONS: u32 = 6;
const OPERATIONS_AT_FULL_LENGTH: u32 = 100;
/// Time for the node to be back, which takes longer each time.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(120);

/// Name of the module.
pub(crate) const MODULE: &str = "conformance";

/// Test of the node's own restarts, after the suite's.
const KILLED: &str = "node_killed_around_a_pause_and_a_save_goes_on";

/// Returns the suite's tests, which share a workspace. Control stands still meanwhile.
pub(crate) fn trials(installation: &Arc<Installation>) -> Vec<Trial> {
    let shared: Arc<Mutex<Option<Control>>> = Arc::default();
    let trial = |(number, (name, test)): (usize, &Test)| {
        let (installation, shared, test) = (Arc::clone(installation), Arc::clone(&shared), *test);
        let is_last = number + 1 == TESTS.len();
        Trial::test(format!("{MODULE}::{name} (qemu)"), move || {
            let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let result = run(&installation, &mut shared, test);
            if is_last {
                *shared = None;
            }
            result.map_err(|error| format!("{error:#}").into())
        })
    };
    let mut trials: Vec<_> = TESTS.iter().enumerate().map(trial).collect();
    let installation = Arc::clone(installation);
    trials.push(Trial::test(format!("{MODULE}::{KILLED} (qemu)"), move || {
        // The supervisor waits longer before each restart.
        if !is_soak() {
            println!("skipped: only with --soak");
            return Ok(());
        }
        kill_node(&installation).map_err(|error| format!("{error:#}").into())
    }));
    trials
}

/// Kills the node once at each point of a pause, a save and a load, in as many rounds as that takes. In each the workspace gets to where it is
/// told to be.
fn kill_node(installation: &Installation) -> Result<()> {
    let kill_points = KillPoints::of_node(installation);
    let points = Effect::OUT_OF_TIME.into_iter().flat_map(Effect::points);
    kill_points.arm(&points.map(str::to_owned).collect::<Vec<_>>())?;
    let mut control = eventually("the node answers", SETTLE_TIMEOUT, || open(installation).map(Some))?;
    control.start(None)?;
    for round in 1..=ROUNDS {
        for paused in [true, false] {
            eventually("the node takes it", SETTLE_TIMEOUT, || control.set_paused(paused).map(Some))?;
        }
        control.wait_answering()?;
        control.stop(Some([round; 32]))?;
        let started = control.start(Some([round; 32]))?;
        control.exec("true")?;
        let left = kill_points.left()?;
        eprintln!("round {round}: memory lost: {:?}; left: {left:?}", started.memory_lost);
        if left.is_empty() {
            control.delete()?;
            drop((control, kill_points));
            return restart(installation);
        }
    }
    bail!("not reached: {:?}", kill_points.left())
}

fn open(installation: &Installation) -> Result<Control> {
    let run_dir = Path::new("/run/rigbox").join(&installation.id);
    let operations = if is_soak() { OPERATIONS_AT_FULL_LENGTH } else { OPERATIONS };
    Control::open(Place { run_dir, state_dir: installation.state(), operations })
}

fn run(
    installation: &Installation,
    shared: &mut Option<Control>,
    test: fn(&mut Control) -> Result<()>,
) -> Result<()> {
    let control = match shared {
        Some(control) => control,
        None => shared.insert(open(installation)?),
    };
    test(control)
}
