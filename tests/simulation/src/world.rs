//! World of a history, which everything in it shares: chance, the machine, the trace, and the violations found.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use rigbox_core::ids::WorkspaceId;
use rigbox_core::time::Timestamp;
use tokio::time::Instant;

use crate::machine::Machine;
use crate::random::Random;

/// Time at which the clock of days begins: some day in 2026.
const CLOCK_BEGIN_MS: i64 = 1_780_000_000_000;
/// Longest jump of the clock of days: three days.
const MAX_JUMP_MS: u64 = 3 * 24 * 3_600_000;

pub(crate) struct World {
    pub random: Random,
    /// Nothing is disturbed any more.
    calm: AtomicBool,
    began: Instant,
    /// Time by which the clock of days is ahead of its beginning and of what has elapsed, ms.
    clock_jumps_ms: AtomicI64,
    machine: Mutex<Machine>,
    /// Workspaces whose deletion was requested. Only these may lose their disk.
    deletions: Mutex<BTreeSet<WorkspaceId>>,
    trace: Mutex<Vec<String>>,
    violations: Mutex<Vec<String>>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            calm: AtomicBool::new(false),
            began: Instant::now(),
            clock_jumps_ms: AtomicI64::new(0),
            machine: Mutex::default(),
            deletions: Mutex::default(),
            trace: Mutex::default(),
            violations: Mutex::default(),
        }
    }

    pub(crate) fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap()
    }

    pub(crate) fn calm_down(&self) {
        self.calm.store(true, Ordering::SeqCst);
        self.note("calm");
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.calm.load(Ordering::SeqCst)
    }

    /// Returns true in `per_mille` of 1,000 cases, and never once the world is calm.
    pub(crate) fn disturbs(&self, per_mille: u64) -> bool {
        !self.is_calm() && self.random.chance(per_mille)
    }

    pub(crate) async fn pause(&self, max_ms: u64) {
        tokio::time::sleep(self.random.time(max_ms)).await;
    }

    /// Returns the time by the clock of days.
    pub(crate) fn now(&self) -> Timestamp {
        let elapsed = i64::try_from(self.elapsed().as_millis()).unwrap();
        Timestamp::from_unix_ms(CLOCK_BEGIN_MS + elapsed + self.clock_jumps_ms.load(Ordering::SeqCst))
    }

    /// Sets the clock of days forward or back.
    pub(crate) fn jump(&self) {
        let by = i64::try_from(self.random.below(2 * MAX_JUMP_MS)).unwrap() - MAX_JUMP_MS.cast_signed();
        self.clock_jumps_ms.fetch_add(by, Ordering::SeqCst);
        self.note(format!("the clock jumps by {} min", by / 60_000));
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    pub(crate) fn note(&self, event: impl AsRef<str>) {
        let line = format!("{:>9.3} {}", self.elapsed().as_secs_f64(), event.as_ref());
        self.trace.lock().unwrap().push(line);
    }

    pub(crate) fn violation(&self, what: impl AsRef<str>) {
        self.note(format!("VIOLATION: {}", what.as_ref()));
        self.violations.lock().unwrap().push(what.as_ref().to_owned());
    }

    pub(crate) fn allow_deletion(&self, id: &WorkspaceId) {
        self.deletions.lock().unwrap().insert(id.clone());
    }

    pub(crate) fn may_delete(&self, id: &WorkspaceId) -> bool {
        self.deletions.lock().unwrap().contains(id)
    }

    pub(crate) fn trace(&self) -> Vec<String> {
        self.trace.lock().unwrap().clone()
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.violations.lock().unwrap().clone()
    }
}
