//! Life cycle of a workspace: every end is noticed and has a cause.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rigbox_testkit::blocking::eventually;
use serde_json::{Value, json};

use crate::TestResult;
use crate::harness::installation::Installation;

tests![
    four_concurrent_spawns_succeed,
    shutdown_and_reboot_in_the_guest_are_noticed,
    stop_is_graceful_and_cancel_ends_a_start,
    killed_vmm_is_a_retryable_failure,
    guest_that_takes_over_its_agent_harms_only_itself,
    guest_that_does_not_shut_down_is_killed_after_its_grace,
    journal_that_cannot_be_written_loses_no_workspace,
];

fn four_concurrent_spawns_succeed(installation: &Installation) -> TestResult {
    let api = &installation.api;
    let ids = ["a", "b", "c", "d"].map(|name| api.create(&format!("four-{name}")));
    let ids = ids.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    for id in &ids {
        api.post(&format!("/workspaces/{id}/start"), &json!({}))?.expect(200)?;
    }
    // One boot more than the node begins at once.
    eventually("one is in the queue", Duration::from_secs(10), || {
        let listed = api.get("/workspaces")?.expect(200)?;
        let mut vms = listed["vms"].as_array().into_iter().flatten();
        Ok(vms.any(|vm| vm["queue_position"] == 1).then_some(()))
    })?;
    for id in &ids {
        api.wait(id, "running")?;
        api.sh(id, "true")?;
    }
    for id in &ids {
        api.delete(&format!("/workspaces/{id}"))?.expect(200)?;
    }
    ids.iter().try_for_each(|id| api.wait_gone(id))
}

fn shutdown_and_reboot_in_the_guest_are_noticed(installation: &Installation) -> TestResult {
    let api = &installation.api;
    let id = api.spawn("ender")?;
    api.sh(&id, "echo kept > file")?;
    // Packets are on their way when the kernel goes down.
    let traffic = "while :; do echo > /dev/udp/172.16.0.1/9; done";
    api.sh(&id, &format!("setsid bash -c '{traffic}' < /dev/null > /dev/null 2>&1 &"))?;
    api.reboot_by(&id, "reboot -f")?;
    // systemd has to be up for these.
    let up = || {
        eventually("systemd is up", Duration::from_secs(90), || {
            Ok(api.sh(&id, "systemctl is-active multi-user.target").ok().map(drop))
        })
    };
    up()?;
    api.end_by(&id, "systemctl poweroff")?;
    api.wait(&id, "stopped")?;
    api.start(&id)?;
    up()?;
    api.end_by(&id, "systemctl halt")?;
    api.wait(&id, "stopped")?;
    api.start(&id)?;
    up()?;
    api.reboot_by(&id, "systemctl reboot")?;
    ensure!(api.sh(&id, "cat file")? == "kept", "the disk is kept");
    api.remove(&id)
}

fn stop_is_graceful_and_cancel_ends_a_start(installation: &Installation) -> TestResult {
    let api = &installation.api;
    let id = api.spawn("stopper")?;
    // Not synced, so that only a graceful shutdown writes it to the disk.
    api.sh(&id, "echo unsynced > file")?;
    api.stop(&id)?;
    api.post(&format!("/workspaces/{id}/start"), &json!({}))?.expect(200)?;
    api.post(&format!("/workspaces/{id}/cancel"), &json!({}))?.expect(200)?;
    api.wait(&id, "stopped")?;
    api.start(&id)?;
    ensure!(api.sh(&id, "cat file")? == "unsynced", "the stop was not graceful");
    // Deletion of a running workspace stops it first.
    api.remove(&id)
}

fn killed_vmm_is_a_retryable_failure(installation: &Installation) -> TestResult {
    let api = &installation.api;
    let before = installation.vmm_pids()?;
    let id = api.spawn("victim")?;
    let pid =
        installation.vmm_pids()?.into_iter().find(|pid| !before.contains(pid)).context("the new VMM")?;
    rigbox_sys::spawn::send_signal(pid, 9)?;
    api.wait(&id, "failed")?;
    let failed = api.get(&format!("/workspaces/{id}"))?.expect(200)?;
    ensure!(failed.pointer("/failure/code").is_some_and(|code| code == "vmm_died"), "{failed}");
    ensure!(failed.pointer("/failure/retryable") == Some(&Value::Bool(true)), "{failed}");
    let refused = api.post(&format!("/workspaces/{id}/exec"), &json!({"command": "true"}))?;
    ensure!(refused.status == 409, "{}", refused.body);
    api.post(&format!("/workspaces/{id}/retry"), &json!({}))?.expect(200)?;
    api.wait(&id, "running")?;
    api.remove(&id)
}

fn guest_that_takes_over_its_agent_harms_only_itself(installation: &Installation) -> TestResult {
    let api = &installation.api;
    let (id, other) = (api.spawn("taker")?, api.spawn("bystander")?);
    // Root kills the agent and floods the host through its port.
    let line = "port=/dev/$(ls /sys/class/virtio-ports | head -1); \
        systemd-run --quiet sh -c \"kill -9 \\$(pgrep -f '^@rigbox-agent'); while :; do cat /dev/zero > $port; done\"";
    eventually("systemd takes the job", Duration::from_secs(60), || {
        let ran = api.exec(&id, &json!({"command": line, "user": "root"}));
        // Cut off by the agent's end, or the system bus is not up yet.
        Ok(match ran {
            Ok(ran) if ran.exit_code().is_some_and(|code| code != 0) => None,
            _ => Some(()),
        })
    })?;
    eventually("the agent is lost", Duration::from_secs(120), || {
        Ok((api.vm(&id)?.get("agent").and_then(Value::as_str) == Some("lost")).then_some(()))
    })?;
    ensure!(api.status(&id)? == "running", "a lost agent leaves it running");
    let refused = api.post(&format!("/workspaces/{id}/exec"), &json!({"command": "true"}))?;
    ensure!(
        refused.status == 503 && refused.message().to_lowercase().contains("restart the workspace"),
        "{} {}",
        refused.status,
        refused.body
    );
    let guestio =
        installation.role_pids()?.into_iter().find(|(role, _)| role == "guestio").context("guestio")?.1;
    let memory = std::fs::read_to_string(format!("/proc/{guestio}/status"))?;
    let peak: u64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse().ok())
        .context("VmHWM")?;
    ensure!(peak < 200_000, "the flood took {peak} kB of guestio");
    api.sh(&other, "true")?;
    api.remove(&other)?;
    // It can still be stopped: by the power button, or by force.
    api.remove(&id)
}

fn guest_that_does_not_shut_down_is_killed_after_its_grace(installation: &Installation) -> TestResult {
    let api = &installation.api;
    let id = api.spawn("stubborn")?;
    // Neither the agent nor the power button shuts it down. (Of systemd's programs only systemctl waits for it.)
    api.sudo(&id, "systemctl is-system-running --wait; systemctl mask --runtime --now systemd-logind")?;
    let kill = "sh -c \"sleep 1; kill -9 \\$(pgrep -f '^@rigbox-agent')\"";
    api.sudo(&id, &format!("systemd-run --quiet {kill}"))?;
    eventually("the agent has ended", Duration::from_secs(60), || {
        Ok(api.exec(&id, &json!({"command": ["true"]})).is_err().then_some(()))
    })?;
    let started = Instant::now();
    api.stop(&id)?;
    // Control repeats the request every few seconds; none of them begins the 30 s again.
    let took = started.elapsed();
    ensure!((Duration::from_secs(25)..Duration::from_secs(60)).contains(&took), "it took {took:?}");
    api.remove(&id)
}

/// A change that could not be written does not count, and is tried again.
fn journal_that_cannot_be_written_loses_no_workspace(installation: &Installation) -> TestResult {
    let api = &installation.api;
    let id = api.create("unwritable")?;
    // The new content of a record is written under this name first.
    let blocked = installation.state().join("node/journal").join(format!("{id}.new"));
    for (request, transient, resting) in [("start", "starting", "running"), ("stop", "stopping", "stopped")] {
        fs::create_dir(&blocked)?;
        api.post(&format!("/workspaces/{id}/{request}"), &json!({}))?.expect(200)?;
        // Control tries again each second.
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(100));
            ensure!(api.status(&id)? == transient, "it is {}", api.status(&id)?);
        }
        fs::remove_dir(&blocked)?;
        api.wait(&id, resting)?;
    }
    api.remove(&id)
}
