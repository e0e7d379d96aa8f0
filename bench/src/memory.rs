//! Memory of Rigbox's processes, measured as PSS because they share the pages of one program.

use std::fs;

use anyhow::{Context, Result};

use crate::host;
use crate::installation::Installation;

/// Returns the memory of the supervisor and the roles in MB. VMMs are not their children.
pub(crate) fn of_rigbox(installation: &Installation) -> Result<f64> {
    let supervisor = installation.supervisor()?;
    let mut kilobytes = pss_kb(supervisor)?;
    for role in host::children(supervisor)? {
        kilobytes += pss_kb(role)?;
    }
    Ok(f64::from(kilobytes) * 1024.0 / 1e6)
}

/// Returns the memory of a process in kB, its share of what it shares with others included.
pub(crate) fn pss_kb(pid: u32) -> Result<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss in smaps_rollup")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Returns the resident memory of a process in kB.
pub(crate) fn rss_kb(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS in status")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
