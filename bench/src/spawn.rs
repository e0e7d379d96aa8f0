//! The bench `spawn`: a workspace from the request to its use, beside a bare VM.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use crate::bare::{Bare, Then};
use crate::installation::Installation;
use crate::report::{Measure, Target, median, tell};
use crate::workspaces::Workspaces;
use crate::{exec, host, memory};

const IDLE_WITHIN: Duration = Duration::from_secs(120);
/// Our processes have settled after this.
const SETTLED: Duration = Duration::from_secs(3);
const CLONES: usize = 9;
const AT_ONCE: usize = 4;

/// Runs everything; each step is told on standard error.
pub(crate) fn measure(installation: &Installation, rounds: u32) -> Result<Vec<Measure>> {
    tell("starting Rigbox");
    let key = installation.start()?;
    std::thread::sleep(SETTLED);
    let fresh_mb = memory::of_ours(installation)?;

    tell("four spawns at once");
    let bench = Bench { installation, key };
    let (at_once, ids) = bench.spawn_at_once()?;
    for (_, name) in &ids {
        host::wait_idle(vmm(name)?, IDLE_WITHIN)?;
    }
    std::thread::sleep(SETTLED);
    let with_vms_mb = memory::of_ours(installation)?;

    let mut api = bench.connect()?;
    let ((id, name), others) = ids.split_first().context("no workspace")?;
    for (other, _) in others {
        api.delete(other)?;
    }
    let bare = Bare::like(installation, vmm(name)?, api.disk_bytes(id)?)?;
    tell("commands");
    let commands = {
        let vm = bare.start(Then::Serve)?;
        exec::measure(&mut api, id, &mut vm.port()?)?
    };
    api.delete(id)?;

    tell("disk clones");
    let clone_ms = clones(&bare)?;
    let boots = bench.boots(&bare, rounds)?;

    std::thread::sleep(SETTLED);
    let used_mb = memory::of_ours(installation)?;
    let mut measures = boots;
    measures.extend(commands);
    measures.push(Measure::new("disk clone", "ms", clone_ms, None, Target::Below(50.0)));
    measures.push(Measure::succeeded("four spawns at once", "s", at_once, "all succeed"));
    measures.push(Measure::new("our processes, fresh", "MB", fresh_mb, None, Target::Below(60.0)));
    measures.push(Measure::new("our processes, after all this", "MB", used_mb, None, Target::Below(60.0)));
    let each_mb = (with_vms_mb - fresh_mb) / 4.0;
    measures.push(Measure::new("our processes, more per VM", "MB", each_mb, None, Target::Below(4.0)));
    Ok(measures)
}

/// The VMM of the workspace of this name.
fn vmm(name: &str) -> Result<u32> {
    host::find("qemu-system-x86_64", &format!("rigbox.hostname={name}"))
}

/// Two moments of a boot, s from the request.
#[derive(Clone, Copy)]
struct Boot {
    first: f64,
    multi_user: f64,
}

struct Bench<'a> {
    installation: &'a Installation,
    key: String,
}

impl Bench<'_> {
    fn connect(&self) -> Result<Workspaces> {
        Workspaces::connect(self.installation.port(), &self.key)
    }

    /// A name that no other installation on this machine has.
    fn name(number: usize) -> String {
        format!("bench-{}-{number}", std::process::id())
    }

    /// Time until the last of them has said something, and id and name of each.
    fn spawn_at_once(&self) -> Result<(f64, Vec<(String, String)>)> {
        let began = Instant::now();
        let one = |number: usize| -> Result<(String, String)> {
            let (mut api, name) = (self.connect()?, Self::name(number));
            let id = api.spawn(&name)?;
            api.text_of(&id, &json!(["echo", "hello"]))?;
            Ok((id, name))
        };
        let ids = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..AT_ONCE).map(|number| scope.spawn(move || one(number))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?)
                .collect::<Result<Vec<_>>>()
        })?;
        Ok((began.elapsed().as_secs_f64(), ids))
    }

    fn boots(&self, bare: &Bare<'_>, rounds: u32) -> Result<Vec<Measure>> {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 1..=rounds {
            let our = self.boot_ours(AT_ONCE + round as usize)?;
            let their = boot_bare(bare)?;
            tell(&format!(
                "round {round} of {rounds}: ours {:.2} s and {:.2} s, bare {:.2} s and {:.2} s",
                our.first, our.multi_user, their.first, their.multi_user
            ));
            ours.push(our);
            theirs.push(their);
        }
        let measure = |name, of: fn(&Boot) -> f64, limit| {
            let [ours, theirs] =
                [&ours, &theirs].map(|boots| median(&mut boots.iter().map(of).collect::<Vec<_>>()));
            Measure::new(name, "s", ours, Some(theirs), Target::AtMostTimes(limit))
        };
        Ok(vec![
            measure("spawn to first output", |boot| boot.first, 1.3),
            measure("spawn to multi-user.target", |boot| boot.multi_user, 1.2),
        ])
    }

    fn boot_ours(&self, number: usize) -> Result<Boot> {
        let (mut api, name) = (self.connect()?, Self::name(number));
        let began = Instant::now();
        let id = api.spawn(&name)?;
        let mut first = None;
        api.exec(&id, &json!(["echo", "hello"]), |_| first = first.or(Some(began.elapsed())))?;
        let first = first.context("echo said nothing")?.as_secs_f64();
        host::wait_idle(vmm(&name)?, IDLE_WITHIN)?;
        // The guest's clock and ours run alike: how long ago it was there is how long ago it was here.
        let ask = "systemctl show -P ActiveEnterTimestampMonotonic multi-user.target; cat /proc/uptime";
        let (text, ended) = api.text_of(&id, &json!(["sh", "-c", ask]))?;
        let (reached, now) = text.split_once('\n').context("an answer of two lines")?;
        let reached = reached.parse::<f64>()? / 1e6;
        anyhow::ensure!(reached > 0.0, "the VM is idle and has not reached multi-user.target");
        let now: f64 = now.split(' ').next().context("uptime")?.parse()?;
        let multi_user = (ended.at - began).as_secs_f64() - (now - reached);
        api.delete(&id)?;
        Ok(Boot { first, multi_user })
    }
}

fn boot_bare(bare: &Bare<'_>) -> Result<Boot> {
    let vm = bare.start(Then::Systemd)?;
    let first = vm.wait_for(&["bare: root mounted"])?.as_secs_f64();
    let multi_user = vm.wait_for(&["Reached target", "multi-user.target"])?.as_secs_f64();
    // As ours: the next round begins on a machine whose caches have seen a whole boot.
    host::wait_idle(vm.pid, IDLE_WITHIN)?;
    Ok(Boot { first, multi_user })
}

/// Median time of a clone, ms.
fn clones(bare: &Bare<'_>) -> Result<f64> {
    let path = bare.disk_path();
    let mut times = Vec::new();
    for _ in 0..CLONES {
        let began = Instant::now();
        bare.clone_disk(&path)?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
        fs::remove_file(&path)?;
    }
    Ok(median(&mut times))
}
