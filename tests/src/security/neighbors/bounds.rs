//! Memory and descriptors of the roles while somebody tries to exhaust them.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rigbox_testkit::blocking::eventually;

use crate::TestResult;
use crate::harness::installation::{Installation, memory_kb};

const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);
/// Growth of one role's memory while the harm lasts. Edge with 10,000 connections that read nothing comes near it.
const MAX_GROWTH_KB: u64 = 256 << 10;
/// Memory that an allocator may keep for later.
const MAX_KEPT_KB: u64 = 96 << 10;
/// Descriptors that a pool may keep for later.
const MAX_KEPT_DESCRIPTORS: u64 = 100;
const RETURN_TIMEOUT: Duration = Duration::from_secs(60);

/// Resources of one process.
#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    memory_kb: u64,
    descriptors: u64,
}

impl Usage {
    fn of(pid: i32) -> Result<Self> {
        let memory_kb = memory_kb(pid)?;
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64;
        Ok(Self { memory_kb, descriptors })
    }

    fn max(self, other: Self) -> Self {
        Self {
            memory_kb: self.memory_kb.max(other.memory_kb),
            descriptors: self.descriptors.max(other.descriptors),
        }
    }
}

/// Returns a soft limit of a process, if there is one.
fn limit(pid: i32, name: &str) -> Result<Option<u64>> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let line = limits.lines().find_map(|line| line.strip_prefix(name)).context("no such limit")?;
    Ok(line.split_whitespace().next().and_then(|soft| soft.parse().ok()))
}

/// Observation of all roles.
pub(crate) struct Watch {
    roles: Vec<(String, i32)>,
    before: BTreeMap<i32, Usage>,
    stopped: Arc<AtomicBool>,
    sampler: JoinHandle<BTreeMap<i32, Usage>>,
}

impl Watch {
    /// Starts to sample.
    pub(crate) fn start(installation: &Installation) -> Result<Self> {
        let roles = installation.role_pids()?;
        ensure!(roles.len() == 6, "not all roles are there: {roles:?}");
        let before = roles.iter().map(|(_, pid)| Ok((*pid, Usage::of(*pid)?))).collect::<Result<_>>()?;
        let stopped = Arc::new(AtomicBool::new(false));
        let (pids, is_stopped) =
            (roles.iter().map(|(_, pid)| *pid).collect::<Vec<_>>(), Arc::clone(&stopped));
        let sampler = std::thread::spawn(move || {
            let mut peak = BTreeMap::<i32, Usage>::new();
            while !is_stopped.load(Ordering::Relaxed) {
                for pid in &pids {
                    // That a role has ended is found by its pid.
                    let usage = Usage::of(*pid).unwrap_or_default();
                    let highest = peak.entry(*pid).or_default();
                    *highest = highest.max(usage);
                }
                std::thread::sleep(SAMPLE_INTERVAL);
            }
            peak
        });
        Ok(Self { roles, before, stopped, sampler })
    }

    /// Checks that every role has lived through it within its bounds; call it while the harm lasts. Returns what is left to check after it.
    pub(crate) fn end(self, installation: &Installation, what: &str) -> Result<Returns> {
        self.stopped.store(true, Ordering::Relaxed);
        let peak = self.sampler.join().map_err(|_| anyhow::anyhow!("the sampler panicked"))?;
        let now = installation.role_pids()?;
        for (role, pid) in &self.roles {
            ensure!(now.contains(&(role.clone(), *pid)), "{role} was restarted");
            let (before, peak) = (self.before[pid], peak[pid]);
            let grown = peak.memory_kb.saturating_sub(before.memory_kb);
            eprintln!(
                "{what}: {role}: {} MiB (+{}), {} descriptors (+{})",
                peak.memory_kb >> 10,
                grown >> 10,
                peak.descriptors,
                peak.descriptors.saturating_sub(before.descriptors)
            );
            ensure!(grown <= MAX_GROWTH_KB, "{role} has grown by {} MiB", grown >> 10);
            if let Some(bytes) = limit(*pid, "Max data size")? {
                ensure!(peak.memory_kb < bytes >> 10, "{role}: {} KiB of {bytes} bytes", peak.memory_kb);
            }
            let descriptors = limit(*pid, "Max open files")?.context("unlimited descriptors")?;
            ensure!(peak.descriptors < descriptors * 9 / 10, "{role}: {} of {descriptors}", peak.descriptors);
        }
        Ok(Returns { roles: self.roles, before: self.before })
    }
}

/// Resources that have to be free again.
pub(crate) struct Returns {
    roles: Vec<(String, i32)>,
    before: BTreeMap<i32, Usage>,
}

impl Returns {
    /// Waits until the roles hold about what they held before.
    pub(crate) fn wait(&self) -> TestResult {
        for (role, pid) in &self.roles {
            let before = self.before[pid];
            let mut now = Usage::default();
            eventually(&format!("{role} returns what it took"), RETURN_TIMEOUT, || {
                now = Usage::of(*pid)?;
                let returned = now.descriptors <= before.descriptors + MAX_KEPT_DESCRIPTORS
                    && now.memory_kb <= before.memory_kb + MAX_KEPT_KB;
                Ok(returned.then_some(()))
            })
            .with_context(|| format!("{role}: {before:?} before, {now:?} now"))?;
        }
        Ok(())
    }
}
