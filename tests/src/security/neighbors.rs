//! One hostile tenant beside an honest one: what the one stalls, exhausts or floods, the other does not feel.

mod bounds;
mod honest;
mod hostile;

use anyhow::ensure;
use rigbox_testkit::blocking::eventually;
use serde_json::json;

use crate::TestResult;
use crate::harness::installation::{DISK_MB_PER_S, Installation};
pub(crate) use bounds::Watch;
pub(crate) use honest::Honest;
pub(crate) use honest::TIMEOUT;
use honest::in_time;
pub(crate) use hostile::{Harm, Hostile, SHARE};

// The harder ones for the hostile VM itself come last.
tests![
    stalled_commands_slow_no_neighbor,
    unread_logs_slow_no_neighbor,
    unread_terminals_slow_no_neighbor,
    connections_outward_slow_no_neighbor,
    held_visitors_slow_no_neighbor,
    dns_flood_slows_no_neighbor,
    flood_of_flows_slows_no_neighbor,
    flood_of_refusals_slows_no_neighbor,
    full_disk_slows_no_neighbor,
    full_memory_slows_no_neighbor,
    forks_slow_no_neighbor,
    workspaces_start_beside_a_hostile_one,
    stalled_commands_stop_no_other_call,
    disk_traffic_is_limited_and_deleted_files_leave_the_host,
];

/// Does harm, and checks that the honest tenant is served meanwhile, that every role stays within its bounds, and that it returns what it took.
fn harm(
    installation: &Installation,
    what: &str,
    kind: impl FnOnce(&Hostile) -> anyhow::Result<Harm>,
) -> TestResult {
    let (honest, hostile) = (Honest::shared(installation)?, Hostile::shared(installation)?);
    let watch = Watch::start(installation)?;
    let harm = kind(&hostile)?;
    honest.is_served()?;
    let returns = watch.end(installation, what)?;
    drop(harm);
    hostile.recovers()?;
    returns.wait()
}

fn stalled_commands_slow_no_neighbor(installation: &Installation) -> TestResult {
    harm(installation, "stalled commands", Hostile::stalls_commands)
}

fn unread_logs_slow_no_neighbor(installation: &Installation) -> TestResult {
    harm(installation, "unread logs", Hostile::leaves_logs_unread)
}

fn unread_terminals_slow_no_neighbor(installation: &Installation) -> TestResult {
    harm(installation, "unread terminals", Hostile::leaves_terminals_unread)
}

fn connections_outward_slow_no_neighbor(installation: &Installation) -> TestResult {
    harm(installation, "connections outward", Hostile::connects_outward)
}

fn held_visitors_slow_no_neighbor(installation: &Installation) -> TestResult {
    harm(installation, "held visitors", Hostile::holds_visitors)
}

fn dns_flood_slows_no_neighbor(installation: &Installation) -> TestResult {
    harm(installation, "a DNS flood", Hostile::floods_dns)
}

fn flood_of_flows_slows_no_neighbor(installation: &Installation) -> TestResult {
    harm(installation, "a flood of flows", Hostile::floods_flows)
}

fn flood_of_refusals_slows_no_neighbor(installation: &Installation) -> TestResult {
    harm(installation, "a flood of refusals", Hostile::floods_refusals)
}

fn full_disk_slows_no_neighbor(installation: &Installation) -> TestResult {
    harm(installation, "a full disk", Hostile::fills_its_disk)
}

fn full_memory_slows_no_neighbor(installation: &Installation) -> TestResult {
    harm(installation, "full memory", Hostile::fills_its_memory)
}

fn forks_slow_no_neighbor(installation: &Installation) -> TestResult {
    harm(installation, "a fork bomb", Hostile::forks)
}

fn workspaces_start_beside_a_hostile_one(installation: &Installation) -> TestResult {
    let hostile = Hostile::shared(installation)?;
    let _harm = Harm::all(vec![hostile.floods_dns()?, hostile.leaves_terminals_unread()?]);
    let started = installation.api.spawn("started-beside")?;
    ensure!(installation.api.sh(&started, "echo fine")? == "fine", "its output");
    installation.api.remove(&started)
}

fn stalled_commands_stop_no_other_call(installation: &Installation) -> TestResult {
    let (honest, hostile) = (Honest::shared(installation)?, Hostile::shared(installation)?);
    let (api, id) = (&hostile.api, &hostile.id);
    // What a caller has left is killed some seconds later.
    eventually("commands of the tests before have ended", TIMEOUT, || {
        let running = hostile.commands()?;
        ensure!(running.is_empty(), "{} run, the first of them {:?}", running.len(), running.first());
        Ok(Some(()))
    })?;
    let stalled = hostile.stalls_commands()?;
    // Commands and files have a stream of their own, so that a delivery never waits behind their bytes.
    let ports = installation.api.sudo(&honest.id, "sort /sys/class/virtio-ports/*/name")?;
    ensure!(ports == "rigbox.agent\nrigbox.streams", "{ports}");
    // Its own commands have to wait, and what keeps the workspace going does not.
    let refused = api.post(&format!("/workspaces/{id}/exec"), &json!({"command": "true"}))?;
    ensure!(refused.status == 503 && refused.code() == "busy", "{} {}", refused.status, refused.body);
    ensure!(
        refused.message().contains("64 commands") && refused.message().contains("this workspace"),
        "{}",
        refused.message()
    );
    in_time("a delivery of secrets", || api.set_env(id, &json!({"NEW": "value"})).map(drop))?;
    in_time("a list of the processes", || {
        let running = hostile.commands()?.len();
        ensure!(running == SHARE, "{running} processes");
        Ok(())
    })?;
    in_time("a stop", || api.stop(id))?;
    drop(stalled);
    api.remove(id)
}

/// Sizes of the files that the disk is measured with, MiB: more than the limiter lets pass at once.
const MEASURED_MB: u32 = 400;

fn disk_traffic_is_limited_and_deleted_files_leave_the_host(installation: &Installation) -> TestResult {
    let api = &installation.api;
    let busy = api.spawn("busy-disk")?;
    // Direct, past the caches. The clock is the VM's own.
    let seconds = |command: &str| -> anyhow::Result<f64> {
        let timed = format!("start=$(date +%s%3N); {command}; echo $(($(date +%s%3N) - start))");
        Ok(api.sudo(&busy, &timed)?.trim().parse::<f64>()? / 1000.0)
    };
    let copy = format!("bs=1M count={MEASURED_MB} status=none");
    let write = seconds(&format!("dd if=/dev/zero of=/var/tmp/big oflag=direct {copy}"))?;
    let read = seconds(&format!("dd if=/var/tmp/big of=/dev/null iflag=direct {copy}"))?;
    for (what, seconds) in [("write", write), ("read", read)] {
        let mb_per_s = f64::from(MEASURED_MB) * 1.048_576 / seconds;
        ensure!(mb_per_s < f64::from(DISK_MB_PER_S) * 1.2, "{what}: {mb_per_s:.0} MB/s");
        ensure!(mb_per_s > f64::from(DISK_MB_PER_S) * 0.1, "{what}: only {mb_per_s:.0} MB/s");
    }
    let on_host = || -> anyhow::Result<u64> {
        let disk = installation.run_dir().join(format!("node/own/volume/disks/{busy}.ext4"));
        Ok(std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(disk)?) * 512)
    };
    api.sudo(&busy, "sync")?;
    let before = on_host()?;
    api.sudo(&busy, "rm /var/tmp/big; sync; fstrim /; sync")?;
    let freed = before.saturating_sub(on_host()?) >> 20;
    ensure!(freed > u64::from(MEASURED_MB) * 9 / 10, "{freed} MiB left the host's disk");
    api.remove(&busy)
}
