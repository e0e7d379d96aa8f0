//! Processes of this host, as `/proc` shows them, and where they listen.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rigbox_testkit::blocking::eventually;

/// CPU share below which a VM is idle.
const IDLE_SHARE: f64 = 0.2;
/// Unit of `/proc/<pid>/stat` on x86.
const TICKS_PER_SECOND: f64 = 100.0;
/// Time for a server to start.
const READY_TIMEOUT: Duration = Duration::from_secs(20);
const SAMPLE_INTERVAL: Duration = Duration::from_millis(500);

fn pids() -> Result<Vec<u32>> {
    Ok(fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}

/// Returns the arguments of a process.
pub(crate) fn command_line(pid: u32) -> Result<Vec<String>> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline"))?;
    let text = String::from_utf8(bytes)?;
    Ok(text.split_terminator('\0').map(str::to_owned).collect())
}

/// Finds the process of `program` with `word` in its arguments.
pub(crate) fn find(program: &str, word: &str) -> Result<u32> {
    let found = pids()?.into_iter().find(|pid| {
        command_line(*pid).is_ok_and(|words| {
            words.first().is_some_and(|first| first.ends_with(program))
                && words.iter().any(|line| line.split(' ').any(|one| one == word))
        })
    });
    found.with_context(|| format!("no process {program} with `{word}`"))
}

/// Returns the fields of `/proc/<pid>/stat` from the third on; the second may contain blanks.
fn stat(pid: u32) -> Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = text.rsplit_once(") ").context("/proc/<pid>/stat")?;
    Ok(rest.split(' ').map(str::to_owned).collect())
}

pub(crate) fn children(parent: u32) -> Result<Vec<u32>> {
    let of = parent.to_string();
    // A process may end between the two reads.
    Ok(pids()?.into_iter().filter(|pid| stat(*pid).is_ok_and(|stat| stat.get(1) == Some(&of))).collect())
}

/// Returns the CPU time of a process in seconds.
pub(crate) fn cpu_time(pid: u32) -> Result<f64> {
    let stat = stat(pid)?;
    let ticks: f64 = stat.iter().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    Ok(ticks / TICKS_PER_SECOND)
}

/// Waits until a VM is idle, without a request to it, which would keep it busy.
pub(crate) fn wait_idle(pid: u32, timeout: Duration) -> Result<()> {
    let deadline = Instant::now() + timeout;
    let mut quiet = 0;
    while quiet < 3 {
        anyhow::ensure!(Instant::now() < deadline, "the VM is still busy after {} s", timeout.as_secs());
        let (before, sampled) = (cpu_time(pid)?, Instant::now());
        std::thread::sleep(SAMPLE_INTERVAL);
        let share = (cpu_time(pid)? - before) / sampled.elapsed().as_secs_f64();
        quiet = if share < IDLE_SHARE { quiet + 1 } else { 0 };
    }
    Ok(())
}

/// Waits until a server accepts connections.
pub(crate) fn wait_listening(address: SocketAddr, what: &str) -> Result<()> {
    eventually(&format!("{what} listens on {address}"), READY_TIMEOUT, || {
        Ok(TcpStream::connect(address).ok().map(drop))
    })
}
