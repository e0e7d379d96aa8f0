//! Benchmark `spawn`: a workspace from the request to its use, beside a bare VM.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use rigbox_testkit::report::{Measure, Target, median, progress};
use serde_json::json;

use crate::bare::{BareVm, Workload};
use crate::installation::{Installation, program};
use crate::workspaces::Workspaces;
use crate::{exec, host, memory};

const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// Time after which Rigbox's processes are idle.
const SETTLE_TIME: Duration = Duration::from_secs(3);
const DAY_S: f64 = 86_400.0;
const CLONES: usize = 9;
const MAX_CONCURRENT_SPAWNS: usize = 4;

/// Runs the benchmark, with progress on standard error.
pub(crate) fn measure(installation: &Installation, rounds: u32) -> Result<Vec<Measure>> {
    progress("starting Rigbox");
    let key = installation.start()?;
    std::thread::sleep(SETTLE_TIME);
    let fresh_mb = memory::of_rigbox(installation)?;

    progress("four concurrent spawns");
    let bench = Bench { installation, key };
    let (concurrent_s, ids) = bench.spawn_concurrently()?;
    for (_, name) in &ids {
        host::wait_idle(vmm(name)?, IDLE_TIMEOUT)?;
    }
    std::thread::sleep(SETTLE_TIME);
    let with_vms_mb = memory::of_rigbox(installation)?;

    let mut api = bench.connect()?;
    let ((id, name), others) = ids.split_first().context("no workspace")?;
    for (other, _) in others {
        api.delete(other)?;
    }
    let bare = BareVm::for_vmm(installation, vmm(name)?, api.disk_bytes(id)?)?;
    progress("commands");
    let commands = {
        let vm = bare.start(Workload::Serve)?;
        exec::measure(&mut api, id, || bench.rig(), &mut vm.port()?)?
    };
    api.delete(id)?;

    progress("disk clones");
    let clone_ms = clones(&bare)?;
    let boots = bench.boots(&bare, rounds)?;

    std::thread::sleep(SETTLE_TIME);
    let used_mb = memory::of_rigbox(installation)?;
    let mut measures = boots;
    measures.extend(commands);
    measures.push(Measure::new("disk clone", "ms", clone_ms, None, Target::Below(50.0)));
    measures.push(Measure::succeeded("four spawns at once", "s", concurrent_s, "all succeed"));
    measures.push(Measure::new("Rigbox's processes, after start", "MB", fresh_mb, None, Target::Below(60.0)));
    measures.push(Measure::new(
        "Rigbox's processes, after the benchmark",
        "MB",
        used_mb,
        None,
        Target::Below(60.0),
    ));
    let each_mb = (with_vms_mb - fresh_mb) / 4.0;
    measures.push(Measure::new("Rigbox's processes, per VM", "MB", each_mb, None, Target::Below(4.0)));
    Ok(measures)
}

/// Finds the VMM of a workspace.
fn vmm(name: &str) -> Result<u32> {
    host::find("qemu-system-x86_64", &format!("rigbox.hostname={name}"))
}

/// Milestones of a boot in seconds from the request.
#[derive(Clone, Copy)]
struct Boot {
    first: f64,
    multi_user: f64,
    /// Time of all but the VMM and its guest: from the request to the VMM's start, and from the agent's hello to the answer that it runs. The
    /// guest takes its secrets meanwhile.
    own_steps: f64,
}

struct Bench<'a> {
    installation: &'a Installation,
    key: String,
}

impl Bench<'_> {
    fn connect(&self) -> Result<Workspaces> {
        Workspaces::connect(self.installation.port(), &self.key)
    }

    /// Returns `rig` as a client of the installation.
    fn rig(&self) -> Result<Command> {
        let mut rig = Command::new(program("rig")?);
        rig.env("RIG_API_URL", format!("http://localhost:{}", self.installation.port()));
        rig.env("RIG_API_KEY", &self.key);
        Ok(rig)
    }

    /// Returns a name that no other installation on this machine uses.
    fn name(number: usize) -> String {
        format!("bench-{}-{number}", std::process::id())
    }

    /// Returns the time until the last VM has run a command, and ids and names.
    fn spawn_concurrently(&self) -> Result<(f64, Vec<(String, String)>)> {
        let started = Instant::now();
        let one = |number: usize| -> Result<(String, String)> {
            let (mut api, name) = (self.connect()?, Self::name(number));
            let id = api.spawn(&name)?;
            api.text_of(&id, &json!(["echo", "hello"]))?;
            Ok((id, name))
        };
        let ids = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..MAX_CONCURRENT_SPAWNS).map(|number| scope.spawn(move || one(number))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?)
                .collect::<Result<Vec<_>>>()
        })?;
        Ok((started.elapsed().as_secs_f64(), ids))
    }

    fn boots(&self, bare: &BareVm<'_>, rounds: u32) -> Result<Vec<Measure>> {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 1..=rounds {
            let our = self.boot_ours(MAX_CONCURRENT_SPAWNS + round as usize)?;
            let their = boot_bare(bare)?;
            progress(&format!(
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
        let own_steps_ms = median(&mut ours.iter().map(|boot| boot.own_steps * 1e3).collect::<Vec<_>>());
        Ok(vec![
            Measure::new("our own steps of a spawn", "ms", own_steps_ms, None, Target::Below(60.0)),
            measure("spawn to first output", |boot| boot.first, 1.2),
            measure("spawn to multi-user.target", |boot| boot.multi_user, 1.2),
        ])
    }

    fn boot_ours(&self, number: usize) -> Result<Boot> {
        let (mut api, name) = (self.connect()?, Self::name(number));
        let (asked, started) = (time_of_day()?, Instant::now());
        let id = api.spawn(&name)?;
        let running = time_of_day()?;
        let logged = |what| self.installation.logged_at(what, &id);
        let before = seconds_between(asked, logged("VM started")?);
        let after = seconds_between(logged("agent ready")?, running);
        progress(&format!("our own steps: {before:.3} s before the VMM, {after:.3} s after its agent"));
        let mut first = None;
        api.exec(&id, &json!(["echo", "hello"]), |_| first = first.or(Some(started.elapsed())))?;
        let first = first.context("no output of echo")?.as_secs_f64();
        host::wait_idle(vmm(&name)?, IDLE_TIMEOUT)?;
        // Durations on the guest's clock equal those on ours.
        let query = "systemctl show -P ActiveEnterTimestampMonotonic multi-user.target; cat /proc/uptime";
        let (text, ended) = api.text_of(&id, &json!(["sh", "-c", query]))?;
        let (reached, now) = text.split_once('\n').context("a response of two lines")?;
        let reached = reached.parse::<f64>()? / 1e6;
        anyhow::ensure!(reached > 0.0, "the VM is idle but has not reached multi-user.target");
        let now: f64 = now.split(' ').next().context("uptime")?.parse()?;
        let multi_user = (ended.at - started).as_secs_f64() - (now - reached);
        api.delete(&id)?;
        Ok(Boot { first, multi_user, own_steps: before + after })
    }
}

/// Returns the time of day in seconds (UTC).
fn time_of_day() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64() % DAY_S)
}

/// Returns the time between two times of day, which may be of two days.
fn seconds_between(from: f64, to: f64) -> f64 {
    (to - from).rem_euclid(DAY_S)
}

fn boot_bare(bare: &BareVm<'_>) -> Result<Boot> {
    let vm = bare.start(Workload::Systemd)?;
    let first = vm.wait_for(&["bare: root mounted"])?.as_secs_f64();
    let multi_user = vm.wait_for(&["Reached target", "multi-user.target"])?.as_secs_f64();
    // As ours, so that the next round starts with the same caches.
    host::wait_idle(vm.pid, IDLE_TIMEOUT)?;
    Ok(Boot { first, multi_user, own_steps: 0.0 })
}

/// Returns the median time of a clone in ms.
fn clones(bare: &BareVm<'_>) -> Result<f64> {
    let path = bare.disk_path();
    let mut times = Vec::new();
    for _ in 0..CLONES {
        let started = Instant::now();
        bare.clone_disk(&path)?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
        fs::remove_file(&path)?;
    }
    Ok(median(&mut times))
}
