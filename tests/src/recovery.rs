//! Any process may die at any moment: VMs go on, what was acknowledged holds, nothing is left in between.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::installation::eventually;
use crate::{Kept, World};

pub(crate) const PROMISES: &[crate::Promise] = &[
    ("a_running_vm_outlives_every_role", a_running_vm_outlives_every_role),
    ("kills_at_random_moments_end_consistent", kills_at_random_moments_end_consistent),
    ("vms_that_ran_when_the_host_went_down_run_again", vms_that_ran_when_the_host_went_down_run_again),
    ("what_nobody_owns_is_removed", what_nobody_owns_is_removed),
];

fn shell_works(world: &World, id: &str) -> anyhow::Result<String> {
    eventually("commands run again", Duration::from_secs(60), || {
        Ok(world.api.sh(id, "cat /proc/sys/kernel/random/boot_id").ok())
    })
}

fn a_running_vm_outlives_every_role(world: &World) -> Kept {
    let id = world.api.spawn("survivor")?;
    let boot = shell_works(world, &id)?;
    for role in ["control", "edge", "guestio", "node"] {
        world.kill_role(role)?;
        ensure!(shell_works(world, &id)? == boot, "the VM booted again after {role} was killed");
    }
    world.kill_supervisor()?;
    world.start_supervisor()?;
    world.wait_ready()?;
    ensure!(shell_works(world, &id)? == boot, "the VM booted again after the supervisor was killed");
    ensure!(world.api.status(&id)? == "running", "status");
    // Taken over for good: it can be stopped, which ends its process.
    world.api.stop(&id)?;
    world.api.remove(&id)
}

/// A small generator (xorshift), because the numbers only have to differ between runs.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

fn kills_at_random_moments_end_consistent(world: &World) -> Kept {
    let api = &world.api;
    let rounds = if std::env::var_os("RIGBOX_SOAK").is_some() { 60 } else { 6 };
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos() as u64 | 1;
    eprintln!("seed {seed}");
    let mut dice = Dice(seed);
    let survivor = api.spawn("rock")?;
    let boot = shell_works(world, &survivor)?;
    let id = api.create("leaf")?;
    let others = world.vmm_pids()?.len();
    for round in 0..rounds {
        // One move, one kill somewhere in it.
        let status = api.status(&id)?;
        let verb = match status.as_str() {
            "running" => "stop",
            "failed" => "retry",
            _ => "start",
        };
        api.post(&format!("/workspaces/{id}/{verb}"), &json!({}))?.expect(200)?;
        std::thread::sleep(Duration::from_millis(dice.roll(if verb == "stop" { 2500 } else { 5500 })));
        let victim = ["control", "guestio", "node", "supervisor"][dice.roll(4) as usize];
        eprintln!("round {round}: {verb}, {victim} is killed");
        if victim == "supervisor" {
            world.kill_supervisor()?;
            world.start_supervisor()?;
        } else {
            world.kill_role(victim)?;
        }
        world.wait_ready()?;
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
            shell_works(world, &id)?;
        }
        ensure!(shell_works(world, &survivor)? == boot, "round {round}: the other VM booted again");
        let expected = others + usize::from(wanted == "running");
        ensure!(world.vmm_pids()?.len() == expected, "round {round}: VMMs {:?}", world.vmm_pids()?);
    }
    // And in the middle of a deletion.
    api.delete(&format!("/workspaces/{id}"))?.expect(200)?;
    world.kill_role("node")?;
    world.kill_role("control")?;
    world.wait_ready()?;
    api.wait_gone(&id)?;
    api.remove(&survivor)
}

fn vms_that_ran_when_the_host_went_down_run_again(world: &World) -> Kept {
    let api = &world.api;
    let id = api.spawn("again")?;
    let boot = shell_works(world, &id)?;
    // What a reboot of the host leaves: no process of ours, and a journal that names another boot of the host.
    world.kill_supervisor()?;
    for pid in world.vmm_pids()? {
        rigbox_sys::spawn::send_signal(pid, 9)?;
    }
    eventually("the VMMs are gone", Duration::from_secs(10), || {
        Ok(world.vmm_pids()?.is_empty().then_some(()))
    })?;
    for entry in std::fs::read_dir(world.state().join("node/journal"))? {
        let path = entry?.path();
        let mut record: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        if let Some(host) = record.pointer_mut("/boot/host_boot_id") {
            *host = json!("another");
        }
        std::fs::write(&path, record.to_string())?;
    }
    let began = Instant::now();
    world.start_supervisor()?;
    world.wait_ready()?;
    eventually("it runs again", Duration::from_secs(120), || {
        Ok(shell_works(world, &id).ok().filter(|now| *now != boot))
    })?;
    ensure!(began.elapsed() < Duration::from_secs(120), "it took {:?}", began.elapsed());
    api.wait(&id, "running")?;
    api.remove(&id)
}

fn what_nobody_owns_is_removed(world: &World) -> Kept {
    let stranger = "ws-zzzzzzzz";
    let own = world.run_dir().join("node/own");
    let disk = own.join("volume/disks").join(format!("{stranger}.ext4"));
    std::fs::write(&disk, b"left by nobody")?;
    std::fs::create_dir_all(own.join("vms").join(stranger))?;
    let group = crate::leftovers::cgroups(&world.id)
        .into_iter()
        .next()
        .context("the installation's control group")?;
    let group = group.join(stranger);
    std::fs::create_dir(&group)?;
    let mut sleeper = std::process::Command::new("sleep").arg("1000").spawn()?;
    std::fs::write(group.join("cgroup.procs"), sleeper.id().to_string())?;
    world.kill_role("node")?;
    eventually("the leftovers are gone", Duration::from_secs(30), || {
        let left = disk.exists() || group.exists() || own.join("vms").join(stranger).exists();
        Ok((!left).then_some(()))
    })?;
    sleeper.wait()?;
    world.wait_ready()
}
