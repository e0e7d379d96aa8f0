//! Deleted workspaces leave nothing on the host.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use rigbox_testkit::blocking::eventually;
use serde_json::Value;

use crate::TestResult;
use crate::harness::installation::{Installation, processes};

tests![deleted_workspaces_leave_nothing_behind, deliberate_leftovers_are_found,];

/// Returns the control groups of an installation, parents first.
pub(crate) fn cgroups(installation: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if path.components().any(|part| part.as_os_str() == format!("rigbox-{installation}").as_str()) {
                found.push(path.clone());
            }
            folders.push(path);
        }
    }
    found.sort();
    found
}

/// Returns everything on this host that has the name of a workspace or is a VMM.
fn traces(installation: &Installation) -> anyhow::Result<Vec<String>> {
    let is_name = |text: &str| text.contains("ws-");
    let mut found = Vec::new();
    for (pid, arguments) in processes()? {
        if arguments.iter().any(|word| word.contains("qemu-system") || word.contains("vmm-jail")) {
            found.push(format!("process {pid}: {}", arguments.join(" ")));
        }
    }
    for line in fs::read_to_string("/proc/self/mountinfo")?.lines().filter(|line| is_name(line)) {
        if !installation.mounts_before.contains(line) {
            found.push(format!("mount {line}"));
        }
    }
    for group in cgroups(&installation.id).iter().filter(|path| is_name(&path.to_string_lossy())) {
        found.push(format!("control group {}", group.display()));
    }
    let mut folders = vec![installation.state(), PathBuf::from("/run/rigbox"), PathBuf::from("/run/netns")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if is_name(&entry.file_name().to_string_lossy()) {
                found.push(format!("file {}", entry.path().display()));
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
    // Devices in the host's network namespace; those of a VM are in its namespace, which a mount keeps.
    for line in fs::read_to_string("/proc/net/dev")?.lines().skip(2) {
        let name = line.split(':').next().unwrap_or_default().trim();
        // The host's own, and the uplink, which no workspace owns.
        if !matches!(name, "lo" | "eth0") && name != format!("rb-{}", installation.id) {
            found.push(format!("network device {name}"));
        }
    }
    let links = fs::read_dir(Path::new("/proc"))?.flatten().filter_map(|entry| {
        let link = fs::read_link(entry.path().join("ns/net")).ok()?;
        (link != fs::read_link("/proc/self/ns/net").ok()?)
            .then(|| format!("network namespace of {:?}", entry.file_name()))
    });
    found.extend(links);
    Ok(found)
}

fn deleted_workspaces_leave_nothing_behind(installation: &Installation) -> TestResult {
    // Creates at least one of everything, also when this test runs alone.
    installation.api.spawn("last")?;
    let listed = installation.api.get("/workspaces")?.expect(200)?;
    let ids: Vec<&str> = listed
        .get("vms")
        .and_then(Value::as_array)
        .context("no list")?
        .iter()
        .filter_map(|vm| vm.get("id")?.as_str())
        .collect();
    for id in &ids {
        installation.api.delete(&format!("/workspaces/{id}"))?.expect(200)?;
    }
    for id in &ids {
        installation.api.wait_gone(id)?;
    }
    // Without a wait: after a 404 everything is gone.
    let left = traces(installation)?;
    ensure!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    let used = fs::read_dir(installation.run_dir().join("node/own/volume/disks"))?.count();
    ensure!(used == 0, "{used} disks are left");
    Ok(())
}

/// The search of the other test finds leftovers.
fn deliberate_leftovers_are_found(installation: &Installation) -> TestResult {
    let name = "ws-left2222";
    let group =
        cgroups(&installation.id).into_iter().next().context("the installation's control group")?.join(name);
    fs::create_dir(&group)?;
    let file = installation.run_dir().join("node/own/vms").join(name);
    fs::create_dir_all(&file)?;
    let mut process = std::process::Command::new("unshare").args(["--net", "sleep", "100"]).spawn()?;
    let seen = eventually("the namespace is there", Duration::from_secs(5), || {
        let traces = traces(installation)?;
        Ok(traces.iter().any(|trace| trace.starts_with("network namespace")).then_some(traces))
    });
    process.kill()?;
    process.wait()?;
    fs::remove_dir(&file)?;
    fs::remove_dir(&group)?;
    for kind in ["control group", "file", "network namespace"] {
        let seen = seen.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
        ensure!(seen.iter().any(|trace| trace.starts_with(kind)), "a left {kind} was not seen: {seen:?}");
    }
    ensure!(traces(installation)?.is_empty(), "after the clean-up");
    Ok(())
}
