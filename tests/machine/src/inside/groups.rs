//! Control groups and units of VMs, as the kernel and systemd see them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::installation::run;

pub(super) const ROOT: &str = "/sys/fs/cgroup";

/// VMM process and its control group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Vmm {
    pub(super) pid: i32,
    pub(super) group: PathBuf,
}

/// Returns the VMM of the workspace with this id.
pub(super) fn vmm_of(id: &str) -> Result<Vmm> {
    let found = vmms()?.into_iter().find(|vmm| vmm.group.to_string_lossy().contains(id));
    found.with_context(|| format!("no VMM in a group of {id}"))
}

/// Returns the uid of a VMM.
pub(super) fn uid(vmm: &Vmm) -> Result<u32> {
    let status = fs::read_to_string(format!("/proc/{}/status", vmm.pid))?;
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next());
    Ok(uid.context("no uid")?.parse()?)
}

/// Returns all VMMs.
pub(super) fn vmms() -> Result<Vec<Vmm>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may have ended.
        let Ok(name) = fs::read_to_string(format!("/proc/{pid}/comm")) else { continue };
        let Ok(group) = fs::read_to_string(format!("/proc/{pid}/cgroup")) else { continue };
        if name.starts_with("qemu-system") || name.starts_with("firecracker") {
            let group = group.lines().find_map(|line| line.strip_prefix("0::/")).context("no group")?;
            found.push(Vmm { pid, group: Path::new(ROOT).join(group) });
        }
    }
    Ok(found)
}

/// Reads a setting of a group.
pub(super) fn setting(group: &Path, file: &str) -> Result<String> {
    let path = group.join(file);
    Ok(fs::read_to_string(&path).with_context(|| path.display().to_string())?.trim().to_owned())
}

/// Returns all groups whose path contains `text`.
pub(super) fn groups_named(text: &str) -> Result<Vec<PathBuf>> {
    let found = run("find", &[ROOT, "-type", "d", "-name", &format!("*{text}*")])?;
    Ok(found.lines().map(PathBuf::from).collect())
}

/// Returns the units that systemd has loaded and whose names contain `text`.
pub(super) fn units_named(text: &str) -> Result<Vec<String>> {
    let pattern = format!("*{text}*");
    let listed = run("systemctl", &["list-units", "--all", "--plain", "--no-legend", &pattern])?;
    Ok(listed.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}
