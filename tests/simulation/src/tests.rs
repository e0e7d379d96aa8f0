//! The histories that a run tries.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::history::{self, Outcome};

/// Histories of a usual run.
const HISTORIES: u64 = 2_000;
/// Time of a soak run.
const SOAK: Duration = Duration::from_secs(2 * 3_600);

fn template() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    history::make_template(folder.path());
    folder
}

fn fail(seed: u64, outcome: &Outcome) -> ! {
    let Outcome { trace, violations } = outcome;
    panic!("seed {seed}:\n{}\n\n{}", trace.join("\n"), violations.join("\n"));
}

#[test]
fn nothing_acknowledged_is_lost_in_any_history() {
    let template = template();
    if let Ok(seed) = std::env::var("RIGBOX_SIMULATION_SEED") {
        let seed = seed.parse().expect("RIGBOX_SIMULATION_SEED is a number");
        fail(seed, &history::run(seed, template.path()));
    }
    let is_soak = std::env::var_os("RIGBOX_SOAK").is_some();
    let first = std::env::var("RIGBOX_SIMULATION_FIRST").map_or(1, |first| first.parse().unwrap());
    let (begin, next) = (Instant::now(), AtomicU64::new(first));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    let is_over = if is_soak { begin.elapsed() > SOAK } else { seed >= first + HISTORIES };
                    if is_over {
                        return;
                    }
                    let outcome = history::run(seed, template.path());
                    if !outcome.violations.is_empty() {
                        fail(seed, &outcome);
                    }
                }
            });
        }
    });
    println!("{} histories, seeds from {first}, {:?}", next.into_inner() - first, begin.elapsed());
}

#[test]
fn seed_is_one_history() {
    let template = template();
    for seed in 1..=20 {
        let (once, again) = (history::run(seed, template.path()), history::run(seed, template.path()));
        let differs = once.trace.iter().zip(&again.trace).position(|(once, again)| once != again);
        assert!(
            differs.is_none() && once.trace.len() == again.trace.len(),
            "seed {seed} differs at {differs:?}:\n{}\n\n{}",
            once.trace.join("\n"),
            again.trace.join("\n"),
        );
    }
}
