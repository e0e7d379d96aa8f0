//! Processes as the host's kernel shows them.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Below this share of a CPU a VM counts as idle.
const IDLE: f64 = 0.2;
/// The unit of `/proc/<pid>/stat`, on every x86 kernel.
const TICKS_PER_SECOND: f64 = 100.0;
const LOOK_EVERY: Duration = Duration::from_millis(500);

fn pids() -> Result<Vec<u32>> {
    Ok(fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}

/// The words of a process's command line.
pub(crate) fn command_line(pid: u32) -> Result<Vec<String>> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline"))?;
    let text = String::from_utf8(bytes)?;
    Ok(text.split_terminator('\0').map(str::to_owned).collect())
}

/// The one process of `program` whose command line has `word`.
pub(crate) fn find(program: &str, word: &str) -> Result<u32> {
    let found = pids()?.into_iter().find(|pid| {
        command_line(*pid).is_ok_and(|words| {
            words.first().is_some_and(|first| first.ends_with(program))
                && words.iter().any(|line| line.split(' ').any(|one| one == word))
        })
    });
    found.with_context(|| format!("no process {program} with `{word}`"))
}

/// Fields of `/proc/<pid>/stat` from the third on: names may hold blanks.
fn stat(pid: u32) -> Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = text.rsplit_once(") ").context("/proc/<pid>/stat")?;
    Ok(rest.split(' ').map(str::to_owned).collect())
}

pub(crate) fn children(parent: u32) -> Result<Vec<u32>> {
    let of = parent.to_string();
    // A process may end between the two looks.
    Ok(pids()?.into_iter().filter(|pid| stat(*pid).is_ok_and(|stat| stat.get(1) == Some(&of))).collect())
}

/// Time that a process has used of all CPUs, s.
pub(crate) fn cpu_time(pid: u32) -> Result<f64> {
    let stat = stat(pid)?;
    let ticks: f64 = stat.iter().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    Ok(ticks / TICKS_PER_SECOND)
}

/// Waits until a VM has nothing more to do, without asking it, which would be something to do.
pub(crate) fn wait_idle(pid: u32, within: Duration) -> Result<()> {
    let deadline = Instant::now() + within;
    let mut quiet = 0;
    while quiet < 3 {
        anyhow::ensure!(Instant::now() < deadline, "the VM is still busy after {} s", within.as_secs());
        let (before, looked) = (cpu_time(pid)?, Instant::now());
        std::thread::sleep(LOOK_EVERY);
        let share = (cpu_time(pid)? - before) / looked.elapsed().as_secs_f64();
        quiet = if share < IDLE { quiet + 1 } else { 0 };
    }
    Ok(())
}
