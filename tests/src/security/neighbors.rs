//! One hostile tenant beside an honest one: what the one stalls, exhausts or floods, the other does not feel.

use std::time::{Duration, Instant};

use anyhow::ensure;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::TestResult;
use crate::harness::installation::{DISK_MB_PER_S, Installation};

tests![stalled_commands_stop_no_other_call, disk_traffic_is_limited_and_deleted_files_leave_the_host,];

/// Commands that a workspace may run at once.
const SHARE: usize = 64;
/// More than all windows between a caller and a command that does not read.
const STDIN_BYTES: usize = 1 << 20;
/// Limit for calls that take a fraction of a second here.
const TIMEOUT: Duration = Duration::from_secs(20);

fn stalled_commands_stop_no_other_call(installation: &Installation) -> TestResult {
    let api = &installation.api;
    let (hostile, honest) = (api.spawn("hostile")?, api.spawn("honest")?);
    let body = json!({"command": ["sleep", "600"], "stdin_b64": STANDARD.encode(vec![0; STDIN_BYTES])});
    let stalled =
        (0..SHARE).map(|_| api.exec_and_hold(&hostile, &body)).collect::<anyhow::Result<Vec<_>>>()?;

    let in_time = |what: &str, call: &dyn Fn() -> TestResult| -> TestResult {
        let started = Instant::now();
        call()?;
        ensure!(started.elapsed() < TIMEOUT, "{what} took {:?}", started.elapsed());
        Ok(())
    };
    in_time("a command of the other workspace", &|| {
        ensure!(api.sh(&honest, "echo fine")? == "fine", "its output");
        Ok(())
    })?;
    // Commands and files have a stream of their own, so that a delivery never waits behind their bytes.
    let ports = api.sudo(&honest, "sort /sys/class/virtio-ports/*/name")?;
    ensure!(ports == "rigbox.agent\nrigbox.streams", "{ports}");
    // Its own commands have to wait, and what keeps the workspace going does not.
    let exec = format!("/workspaces/{hostile}/exec");
    let refused = api.post(&exec, &json!({"command": "true"}))?;
    ensure!(refused.status == 503 && refused.code() == "busy", "{} {}", refused.status, refused.body);
    ensure!(
        refused.message().contains("64 commands") && refused.message().contains("this workspace"),
        "{}",
        refused.message()
    );
    in_time("a delivery of secrets", &|| api.set_env(&hostile, &json!({"NEW": "value"})).map(drop))?;
    in_time("a list of the processes", &|| {
        let running = api.get(&format!("/workspaces/{hostile}/processes"))?.expect(200)?;
        let running = running.pointer("/processes").and_then(|list| list.as_array()).map_or(0, Vec::len);
        ensure!(running == SHARE, "{running} processes");
        Ok(())
    })?;
    in_time("a stop", &|| api.stop(&hostile))?;
    drop(stalled);
    api.remove(&hostile)?;
    api.remove(&honest)
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
