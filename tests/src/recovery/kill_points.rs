//! Kills of the node around every effect that it has on the machine. A process of the node reads the points at its start, and ends at the
//! first that it reaches; the supervisor starts the next one, which has those that are left.

pub(super) mod armed;
pub(crate) mod control;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rigbox_node::Effect;
use rigbox_sys::kill_points::SKIPPED;
use rigbox_testkit::blocking::eventually;
use serde_json::{Value, json};

use super::crashes::wait_for_exec;
use super::leftovers::cgroups;
use crate::TestResult;
use crate::harness::api::ApiResponse;
use crate::harness::installation::Installation;
use crate::harness::is_soak;
use armed::{KillPoints, restart};

/// Passes of `after save` in the life of one workspace: `true` ends the node. A node that ends after it has recorded a boot, and not yet
/// the process, records that there is none, and another boot; so it goes on there. It also goes on after two of three network policies.
const SAVES: [bool; 19] = [
    true, true, true, true, false, false, false, false, false, false, true, true, true, false, false, true,
    true, true, true,
];
/// More passes of one point than the life of a workspace has.
const MAX_PASSES: usize = 30;

/// Sends a request until it is accepted. Some are refused while the node is away.
fn accepted(send: impl Fn() -> Result<ApiResponse>, status: u16) -> Result<Value> {
    eventually("the request is accepted", Duration::from_secs(60), || {
        let response = send()?;
        if response.code() == "node_unavailable" { Ok(None) } else { response.expect(status).map(Some) }
    })
}

/// Creates, starts, uses, stops and deletes a workspace. `pause` is called between these. With `stop`, it is stopped before the deletion.
fn live(installation: &Installation, stop: bool, pause: impl Fn() -> Result<()>) -> TestResult {
    let api = &installation.api;
    let vmms = installation.vmm_pids()?.len();
    let created = accepted(|| api.post("/workspaces", &json!({"name": "points"})), 201)?;
    let id = created.pointer("/vm/id").and_then(Value::as_str).context("no id")?.to_owned();
    api.wait(&id, "provisioned")?;
    let request = |verb: &str| accepted(|| api.post(&format!("/workspaces/{id}/{verb}"), &json!({})), 200);
    pause()?;
    request("start")?;
    api.wait(&id, "running")?;
    let boot = wait_for_exec(installation, &id)?;
    pause()?;
    let network = format!("/workspaces/{id}/network");
    // A node that ends before it has set a policy restores it with the VM, so each point needs another one.
    for mode in ["none", "internet", "none"] {
        let policy = json!({"egress": {"mode": mode}}).to_string();
        accepted(|| api.send_json("PATCH", &network, &policy), 200)?;
        eventually("the policy is in force", Duration::from_secs(60), || {
            let settings = api.get(&network)?.expect(200)?;
            Ok((settings.get("live") == Some(&json!(true))).then_some(()))
        })?;
    }
    ensure!(wait_for_exec(installation, &id)? == boot, "the VM booted again");
    ensure!(installation.vmm_pids()?.len() == vmms + 1, "VMMs: {:?}", installation.vmm_pids()?);
    if stop {
        pause()?;
        request("stop")?;
        api.wait(&id, "stopped")?;
        ensure!(installation.vmm_pids()?.len() == vmms, "VMMs: {:?}", installation.vmm_pids()?);
    }
    pause()?;
    accepted(|| api.delete(&format!("/workspaces/{id}")), 200)?;
    api.wait_gone(&id)?;
    let left = traces(installation, &id);
    ensure!(left.is_empty(), "left of {id}: {left:?}");
    ensure!(installation.vmm_pids()?.len() == vmms, "VMMs: {:?}", installation.vmm_pids()?);
    Ok(())
}

/// Returns the files and control groups of a workspace.
fn traces(installation: &Installation, id: &str) -> Vec<PathBuf> {
    let (own, journal) = (installation.run_dir().join("node/own"), installation.state().join("node/journal"));
    let mut found = vec![
        own.join("vms").join(id),
        own.join("netns").join(id),
        own.join("volume/disks").join(format!("{id}.ext4")),
        journal.join(format!("{id}.json")),
        journal.join(format!("{id}.new")),
    ];
    found.extend(cgroups(&installation.id).into_iter().filter(|group| group.ends_with(id)));
    found.retain(|path| path.exists());
    found
}

fn skipped(point: &str) -> String {
    format!("{SKIPPED}{point}")
}

/// Returns the points of a life whose guest is never taken out of time.
fn points() -> impl Iterator<Item = &'static str> {
    let effects = Effect::ALL.into_iter().filter(|effect| !Effect::OUT_OF_TIME.contains(effect));
    effects.flat_map(Effect::points)
}

/// All points of one workspace's life, in the lives of as many processes of the node.
pub(crate) fn node_killed_around_every_effect_completes_every_request(
    installation: &Installation,
) -> TestResult {
    let [_, after_save] = Effect::Save.points();
    let mut points: Vec<String> = points().map(str::to_owned).collect();
    // One of them is there.
    points.extend(
        SAVES.iter().skip(1).map(|kill| if *kill { after_save.to_owned() } else { skipped(after_save) }),
    );
    let kill_points = KillPoints::of_node(installation);
    kill_points.arm(&points)?;
    live(installation, true, || restart(installation))
        .with_context(|| format!("not reached: {:?}", kill_points.left()))?;
    let left = kill_points.left()?;
    ensure!(left.is_empty(), "no kill at: {left:?}");
    drop(kill_points);
    // The last kill may have come after the deletion was known.
    restart(installation)
}

/// A life for each pass of each point, with that kill alone.
pub(crate) fn node_killed_once_at_any_pass_completes_every_request(
    installation: &Installation,
) -> TestResult {
    if !is_soak() {
        println!("skipped: only with --soak");
        return Ok(());
    }
    let kill_points = KillPoints::of_node(installation);
    for point in points() {
        for passes in 0..MAX_PASSES {
            let mut points = vec![skipped(point); passes];
            points.push(point.to_owned());
            kill_points.arm(&points)?;
            // Every other one is deleted while it runs.
            live(installation, passes % 2 == 0, || Ok(())).with_context(|| format!("{point} {passes}"))?;
            if !kill_points.left()?.is_empty() {
                break;
            }
            eprintln!("{point}: pass {passes}");
        }
    }
    drop(kill_points);
    restart(installation)
}
