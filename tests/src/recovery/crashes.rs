//! Crashes of any process at any moment: VMs keep running, acknowledged changes persist, and nothing is left half-done.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rigbox_testkit::blocking::eventually;
use serde_json::{Value, json};

use super::failing_disks::{
    acknowledged_changes_outlive_a_database_that_fails_to_sync,
    acknowledged_changes_outlive_a_full_disk_below_the_database,
    requests_wait_for_a_journal_that_fails_to_sync, requests_wait_for_space_below_the_journal,
};
use super::kill_points::control::control_killed_around_every_step_completes_every_request;
use super::kill_points::{
    node_killed_around_every_effect_completes_every_request,
    node_killed_once_at_any_pass_completes_every_request,
};
use super::upgrades::{
    another_copy_of_rigboxd_takes_over_running_vms, database_of_a_newer_version_is_refused_with_the_remedy,
};
use crate::TestResult;
use crate::harness::installation::Installation;
use crate::harness::is_soak;

tests![
    running_vm_outlives_every_role,
    node_killed_around_every_effect_completes_every_request,
    control_killed_around_every_step_completes_every_request,
    node_killed_once_at_any_pass_completes_every_request,
    another_copy_of_rigboxd_takes_over_running_vms,
    database_of_a_newer_version_is_refused_with_the_remedy,
    state_is_consistent_after_kills_at_random_moments,
    vms_running_at_a_host_crash_run_again,
    leftovers_without_a_record_are_removed,
    disk_without_a_record_is_kept_until_it_is_removed,
    requests_wait_for_space_below_the_journal,
    requests_wait_for_a_journal_that_fails_to_sync,
    acknowledged_changes_outlive_a_full_disk_below_the_database,
    acknowledged_changes_outlive_a_database_that_fails_to_sync,
    backup_of_a_running_vm_is_restored_to_an_empty_machine,
];

pub(crate) fn wait_for_exec(installation: &Installation, id: &str) -> anyhow::Result<String> {
    eventually("commands run again", Duration::from_secs(60), || Ok(installation.api.kernel_boot(id).ok()))
}

fn running_vm_outlives_every_role(installation: &Installation) -> TestResult {
    let id = installation.api.spawn("survivor")?;
    let boot = wait_for_exec(installation, &id)?;
    for role in ["ai", "control", "edge", "guestio", "node", "ssh"] {
        installation.kill_role(role)?;
        ensure!(wait_for_exec(installation, &id)? == boot, "the VM booted again after {role} was killed");
    }
    installation.kill_supervisor()?;
    installation.start_supervisor()?;
    installation.wait_ready()?;
    ensure!(wait_for_exec(installation, &id)? == boot, "the VM booted again after the supervisor was killed");
    ensure!(installation.api.status(&id)? == "running", "status");
    // It is fully taken over: a stop ends its process.
    installation.api.stop(&id)?;
    installation.api.remove(&id)
}

/// Random numbers (xorshift) that differ between runs.
struct Rng(u64);

impl Rng {
    fn below(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

fn state_is_consistent_after_kills_at_random_moments(installation: &Installation) -> TestResult {
    let api = &installation.api;
    let rounds = if is_soak() { 60 } else { 3 };
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos() as u64 | 1;
    eprintln!("seed {seed}");
    let mut rng = Rng(seed);
    let survivor = api.spawn("rock")?;
    let boot = wait_for_exec(installation, &survivor)?;
    let id = api.create("leaf")?;
    let others = installation.vmm_pids()?.len();
    for round in 0..rounds {
        // One transition, and one kill during it.
        let status = api.status(&id)?;
        let verb = match status.as_str() {
            "running" => "stop",
            "failed" => "retry",
            _ => "start",
        };
        api.post(&format!("/workspaces/{id}/{verb}"), &json!({}))?.expect(200)?;
        std::thread::sleep(Duration::from_millis(rng.below(if verb == "stop" { 2500 } else { 5500 })));
        let victim = ["control", "guestio", "node", "supervisor"][rng.below(4) as usize];
        eprintln!("round {round}: {verb}, {victim} is killed");
        if victim == "supervisor" {
            installation.kill_supervisor()?;
            installation.start_supervisor()?;
        } else {
            installation.kill_role(victim)?;
        }
        installation.wait_ready()?;
        let wanted = if verb == "stop" { "stopped" } else { "running" };
        eventually(&format!("{id} is {wanted}"), Duration::from_secs(150), || {
            Ok((api.status(&id).ok().as_deref() == Some(wanted)).then_some(()))
        })
        .with_context(|| {
            format!(
                "round {round}: {verb}, {victim}, seed {seed}: {:?}",
                api.get(&format!("/workspaces/{id}"))
            )
        })?;
        if wanted == "running" {
            wait_for_exec(installation, &id)?;
        }
        ensure!(wait_for_exec(installation, &survivor)? == boot, "round {round}: the other VM booted again");
        let expected = others + usize::from(wanted == "running");
        ensure!(
            installation.vmm_pids()?.len() == expected,
            "round {round}: VMMs {:?}",
            installation.vmm_pids()?
        );
    }
    // And during a deletion.
    api.delete(&format!("/workspaces/{id}"))?.expect(200)?;
    installation.kill_role("node")?;
    installation.kill_role("control")?;
    installation.wait_ready()?;
    api.wait_gone(&id)?;
    api.remove(&survivor)
}

fn vms_running_at_a_host_crash_run_again(installation: &Installation) -> TestResult {
    let api = &installation.api;
    let id = api.spawn("again")?;
    let boot = wait_for_exec(installation, &id)?;
    // A reboot of the host leaves no process, and a journal with another boot id of the host.
    installation.kill_supervisor()?;
    for pid in installation.vmm_pids()? {
        rigbox_sys::spawn::send_signal(pid, 9)?;
    }
    eventually("the VMMs are gone", Duration::from_secs(10), || {
        Ok(installation.vmm_pids()?.is_empty().then_some(()))
    })?;
    for entry in std::fs::read_dir(installation.state().join("node/journal"))? {
        let path = entry?.path();
        let mut record: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        if let Some(host) = record.pointer_mut("/boot/host_boot_id") {
            *host = json!("another");
        }
        std::fs::write(&path, record.to_string())?;
    }
    let started = Instant::now();
    installation.start_supervisor()?;
    installation.wait_ready()?;
    eventually("it runs again", Duration::from_secs(120), || {
        Ok(wait_for_exec(installation, &id).ok().filter(|now| *now != boot))
    })?;
    ensure!(started.elapsed() < Duration::from_secs(120), "it took {:?}", started.elapsed());
    api.wait(&id, "running")?;
    api.remove(&id)
}

fn leftovers_without_a_record_are_removed(installation: &Installation) -> TestResult {
    let orphan = "ws-zzzzzzzz";
    let own = installation.run_dir().join("node/own");
    std::fs::create_dir_all(own.join("vms").join(orphan))?;
    let group = crate::recovery::leftovers::cgroups(&installation.id)
        .into_iter()
        .next()
        .context("the installation's control group")?;
    let group = group.join(orphan);
    std::fs::create_dir(&group)?;
    let mut sleeper = std::process::Command::new("sleep").arg("1000").spawn()?;
    std::fs::write(group.join("cgroup.procs"), sleeper.id().to_string())?;
    installation.kill_role("node")?;
    eventually("the leftovers are gone", Duration::from_secs(30), || {
        let left = group.exists() || own.join("vms").join(orphan).exists();
        Ok((!left).then_some(()))
    })?;
    sleeper.wait()?;
    installation.wait_ready()
}

/// The journal of a workspace is lost, and the database too: the disk stays, and can be adopted.
fn disk_without_a_record_is_kept_until_it_is_removed(installation: &Installation) -> TestResult {
    let api = &installation.api;
    let id = api.spawn("lost")?;
    api.sh(&id, "echo precious > file && sync")?;
    api.stop(&id)?;
    let own = installation.run_dir().join("node/own/volume/disks");
    let (disk, orphan) = (own.join(format!("{id}.ext4")), "ws-zzzzzzzz");
    std::fs::hard_link(&disk, own.join(format!("{orphan}.ext4")))?;
    api.remove(&id)?;
    ensure!(!disk.exists(), "the deleted disk is still there");

    installation.kill_role("node")?;
    let list = || installation.admin(&["orphans", "ls"]);
    eventually("the orphan is listed", Duration::from_secs(30), || {
        Ok(list()?.contains(orphan).then_some(()))
    })?;
    let doctor = api.get("/doctor")?.expect(200)?.to_string();
    ensure!(doctor.contains(orphan), "{doctor}");
    installation.admin(&["orphans", "adopt", orphan, "--user", "owner@example.org", "--name", "found"])?;
    api.start(orphan)?;
    ensure!(api.sh(orphan, "cat file")? == "precious", "the file's content");
    api.remove(orphan)?;

    let removed = own.join(format!("{orphan}.ext4"));
    std::fs::write(&removed, [0; 1 << 20])?;
    installation.kill_role("node")?;
    // It was deleted, so it does not come back.
    eventually("the disk of a deleted workspace is gone", Duration::from_secs(30), || {
        Ok((!removed.exists()).then_some(()))
    })?;
    let kept = own.join("ws-yyyyyyyy.ext4");
    std::fs::write(&kept, [0; 1 << 20])?;
    installation.kill_role("node")?;
    eventually("the other orphan is listed", Duration::from_secs(30), || {
        Ok(list()?.contains("ws-yyyyyyyy").then_some(()))
    })?;
    ensure!(kept.exists(), "it was removed");
    installation.admin(&["orphans", "rm", "ws-yyyyyyyy", "--force"])?;
    eventually("it is gone", Duration::from_secs(30), || Ok((!kept.exists()).then_some(())))?;
    ensure!(list()?.is_empty(), "{}", list()?);
    installation.wait_ready()
}

/// Everything is lost but a backup that was taken while the VM wrote to its disk.
fn backup_of_a_running_vm_is_restored_to_an_empty_machine(installation: &Installation) -> TestResult {
    let api = &installation.api;
    let id = api.spawn("saved")?;
    api.set_env(&id, &json!({"SAVED": "value"}))?;
    api.sh(&id, "echo precious > file && sync")?;
    let writer = "i=0; while :; do i=$((i+1)); echo $i > n.new; sync n.new; mv n.new n; done";
    api.sh(&id, &format!("setsid sh -c '{writer}' > /dev/null 2>&1 < /dev/null & sleep 2; cat n"))?;
    let [folder, keys] = ["backup", "keys"].map(|name| installation.scratch.join(name).display().to_string());
    let said = installation.admin(&["backup", &folder, "--keys", &keys, "--disks"])?;
    ensure!(said.contains("master key"), "{said}");
    let last: u64 = api.sh(&id, "cat n")?.trim().parse()?;
    // What is written after the backup is lost with the rest.
    api.sh(&id, "echo late > late && sync")?;

    installation.kill_supervisor()?;
    let mut purge = installation.command("rigboxd");
    let purge = purge.args(["purge", "--everything", "--config"]).arg(installation.config()).status()?;
    ensure!(purge.success() && !installation.state().join("node").exists(), "purge");
    // Started before anything is checked: the tests that follow need it.
    let said = installation.admin(&["restore", &folder, "--keys", &keys]);
    installation.start_supervisor()?;
    let said = said?;
    let disks = said.split(" disks").next().and_then(|text| text.rsplit(' ').next()?.parse().ok());
    ensure!(disks.is_some_and(|disks: u32| disks >= 1), "{said}");
    installation.wait_ready()?;
    // It ran, so it runs again.
    wait_for_exec(installation, &id)?;
    api.wait(&id, "running")?;
    ensure!(api.sh(&id, "cat file; ls late 2> /dev/null || true")? == "precious", "the disk's content");
    let saved: u64 = api.sh(&id, "cat n")?.trim().parse()?;
    ensure!((1..=last).contains(&saved), "{saved}, and {last} after the backup");
    ensure!(api.sh(&id, "echo $SAVED")?.trim() == "value", "the environment");
    std::fs::remove_dir_all(&folder)?;
    std::fs::remove_dir_all(&keys)?;
    api.remove(&id)
}
