//! After the last workspace is deleted nothing of any workspace is left on the host.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::installation::{eventually, processes};
use crate::{Kept, World};

pub(crate) const PROMISES: &[crate::Promise] = &[
    ("nothing_is_left_of_deleted_workspaces", nothing_is_left_of_deleted_workspaces),
    ("something_left_on_purpose_is_seen", something_left_on_purpose_is_seen),
];

/// The control groups of an installation, parents first.
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

/// Everything on this host that bears the name of a workspace, or is a VMM.
fn traces(world: &World) -> anyhow::Result<Vec<String>> {
    let is_name = |text: &str| text.contains("ws-");
    let mut found = Vec::new();
    for (pid, arguments) in processes()? {
        if arguments.iter().any(|word| word.contains("qemu-system") || word.contains("vmm-jail")) {
            found.push(format!("process {pid}: {}", arguments.join(" ")));
        }
    }
    for line in fs::read_to_string("/proc/self/mountinfo")?.lines().filter(|line| is_name(line)) {
        if !world.mounts_before.contains(line) {
            found.push(format!("mount {line}"));
        }
    }
    for group in cgroups(&world.id).iter().filter(|path| is_name(&path.to_string_lossy())) {
        found.push(format!("control group {}", group.display()));
    }
    let mut folders = vec![world.state(), PathBuf::from("/run/rigbox"), PathBuf::from("/run/netns")];
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
    // Devices of the host's own network namespace; each VM's are in its namespace, which a mount keeps.
    for line in fs::read_to_string("/proc/net/dev")?.lines().skip(2) {
        let name = line.split(':').next().unwrap_or_default().trim();
        // The host's own, and the uplink, which is no workspace's.
        if !matches!(name, "lo" | "eth0") && name != format!("rb-{}", world.id) {
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

fn nothing_is_left_of_deleted_workspaces(world: &World) -> Kept {
    // At least one of every thing has been made: also when this runs alone.
    world.api.spawn("last")?;
    let listed = world.api.get("/workspaces")?.expect(200)?;
    let ids: Vec<&str> = listed
        .get("vms")
        .and_then(Value::as_array)
        .context("no list")?
        .iter()
        .filter_map(|vm| vm.get("id")?.as_str())
        .collect();
    for id in &ids {
        world.api.delete(&format!("/workspaces/{id}"))?.expect(200)?;
    }
    for id in &ids {
        world.api.wait_gone(id)?;
    }
    // At once: a 404 says that everything has gone.
    let left = traces(world)?;
    ensure!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    let used = fs::read_dir(world.run_dir().join("node/own/volume/disks"))?.count();
    ensure!(used == 0, "{used} disks are left");
    Ok(())
}

/// The search of the other test finds what it should.
fn something_left_on_purpose_is_seen(world: &World) -> Kept {
    let name = "ws-left2222";
    let group = cgroups(&world.id).into_iter().next().context("the installation's control group")?.join(name);
    fs::create_dir(&group)?;
    let file = world.run_dir().join("node/own/vms").join(name);
    fs::create_dir_all(&file)?;
    let mut process = std::process::Command::new("unshare").args(["--net", "sleep", "100"]).spawn()?;
    let seen = eventually("the namespace is there", Duration::from_secs(5), || {
        let traces = traces(world)?;
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
    ensure!(traces(world)?.is_empty(), "after the clean-up");
    Ok(())
}
