//! The conformance suite of VMM drivers, on the one that this host runs.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use libtest_mimic::Trial;
use rigbox_conformance::{Control, Place, TESTS, Test};

use crate::harness::installation::Installation;

/// Name of the module.
pub(crate) const MODULE: &str = "conformance";

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
    TESTS.iter().enumerate().map(trial).collect()
}

fn run(
    installation: &Installation,
    shared: &mut Option<Control>,
    test: fn(&mut Control) -> Result<()>,
) -> Result<()> {
    let control = match shared {
        Some(control) => control,
        None => {
            let run_dir = Path::new("/run/rigbox").join(&installation.id);
            shared.insert(Control::open(Place { run_dir, state_dir: installation.state() })?)
        }
    };
    test(control)
}
