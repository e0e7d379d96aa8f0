//! Kills of control before and after every step that it records. What was acknowledged is done by the next process; a request that got no
//! answer is repeated, as clients do.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rigbox_store::Step;
use rigbox_testkit::blocking::eventually;
use serde_json::{Value, json};

use super::armed::{KillPoints, restart};
use super::traces;
use crate::TestResult;
use crate::harness::api::ApiResponse;
use crate::harness::installation::Installation;
use crate::recovery::crashes::wait_for_exec;

/// Longest time of one request, with the kills during it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(90);

/// Points, and the part of a life in which control is killed at them, each once. What a node is told is also what it reports at once, on
/// another way: a part has either the point after the one, or those of the other.
const CREATION: &[&str] = &["before create", "after create"];
const START: &[&str] = &[
    "before request",
    "after request",
    "before set_target",
    "before report",
    "after report",
    "before deliver",
    "after deliver",
];
const STOP: &[&str] = &["after request", "after set_target"];
const DELETION: &[&str] =
    &["before request", "after commit_revocation", "after report", "before remove", "after remove"];
/// A process that ends between append and commit has revoked.
const REVOCATIONS: [&[&str]; 3] = [
    &["before append_revocation", "after append_revocation"],
    &["before commit_revocation"],
    &["after commit_revocation"],
];

/// Runs a part of a life, at all of whose points control is killed.
fn killed(points: &[&str], installation: &Installation, part: impl FnOnce() -> Result<()>) -> Result<()> {
    restart(installation)?;
    let kill_points = KillPoints::of_control(installation);
    kill_points.arm(&points.iter().map(|point| (*point).to_owned()).collect::<Vec<_>>())?;
    part().with_context(|| format!("{points:?}, not reached: {:?}", kill_points.left()))?;
    eventually("control was killed at each point", Duration::from_secs(20), || {
        Ok(kill_points.left()?.is_empty().then_some(()))
    })
    .with_context(|| format!("of {points:?}: {:?}", kill_points.left()))
}

/// Sends a request until there is an answer that is none of a role that restarts.
fn answered(send: impl Fn() -> Result<ApiResponse>) -> Result<ApiResponse> {
    eventually("the request is answered", REQUEST_TIMEOUT, || {
        Ok(send().ok().filter(|response| response.status != 503))
    })
}

/// Sends a request until it is acknowledged, or refused because it is: an answer that was lost may have been an acknowledgement.
fn acknowledged(installation: &Installation, id: &str, verb: &str, states: &[&str]) -> Result<()> {
    let path = format!("/workspaces/{id}/{verb}");
    let response = answered(|| installation.api.post(&path, &json!({})))?;
    if response.status == 409 {
        let status = answered(|| installation.api.get(&format!("/workspaces/{id}")))?.expect(200)?;
        let status = status.pointer("/vm/status").and_then(Value::as_str).unwrap_or_default().to_owned();
        ensure!(states.contains(&status.as_str()), "{verb} is refused, and it is {status}");
        return Ok(());
    }
    response.expect(200).map(drop)
}

fn deleted(installation: &Installation, path: &str) -> Result<()> {
    let response = answered(|| installation.api.delete(path))?;
    ensure!([200, 204, 404, 409].contains(&response.status), "{path}: {} {}", response.status, response.body);
    Ok(())
}

fn gone(installation: &Installation, id: &str) -> Result<()> {
    let path = format!("/workspaces/{id}");
    eventually("the workspace is gone", REQUEST_TIMEOUT, || {
        Ok((answered(|| installation.api.get(&path))?.status == 404).then_some(()))
    })?;
    eventually("the node has nothing of it", Duration::from_secs(30), || {
        Ok(traces(installation, id).is_empty().then_some(()))
    })
    .with_context(|| format!("{:?}", traces(installation, id)))
}

/// Revokes an API key. Once that is acknowledged, or control has ended after the entry was durable, it opens nothing.
fn revoke(installation: &Installation, points: &[&str]) -> Result<()> {
    // Control may still be starting after the part before.
    let made = answered(|| installation.api.post("/api-keys", &json!({"name": "points"})))?.expect(201)?;
    let text = |pointer: &str| made.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let (id, key) = (text("/api_key/id"), text("/key"));
    let (id, key) = (id.with_context(|| made.to_string())?, key.with_context(|| made.to_string())?);
    let by_key = installation.api.with_key(&key)?;
    killed(points, installation, || {
        ensure!(answered(|| by_key.get("/workspaces"))?.status == 200, "the key does not work");
        deleted(installation, &format!("/api-keys/{id}"))?;
        let status = answered(|| by_key.get("/workspaces"))?.status;
        ensure!(status == 401, "a revoked key opens: {status}");
        Ok(())
    })
}

/// One life of a workspace and of some keys, in which control is killed at each point.
pub(crate) fn control_killed_around_every_step_completes_every_request(
    installation: &Installation,
) -> TestResult {
    let parts = [CREATION, START, STOP, DELETION].into_iter().chain(REVOCATIONS);
    let covered: Vec<&str> = parts.flatten().copied().collect();
    for point in Step::ALL.iter().flat_map(|step| step.points()) {
        ensure!(covered.contains(&point), "control is never killed {point}");
    }
    let api = &installation.api;
    let vmms = installation.vmm_pids()?.len();
    let mut id = String::new();
    killed(CREATION, installation, || {
        let body = json!({"name": "steps"});
        let made = answered(|| api.post_once("/workspaces", &body, "steps"))?.expect(201)?;
        id = made.pointer("/vm/id").and_then(Value::as_str).context("no id")?.to_owned();
        api.wait(&id, "provisioned")
    })?;
    killed(START, installation, || {
        acknowledged(installation, &id, "start", &["starting", "running"])?;
        api.wait(&id, "running")
    })?;
    let boot = wait_for_exec(installation, &id)?;
    ensure!(installation.vmm_pids()?.len() == vmms + 1, "VMMs: {:?}", installation.vmm_pids()?);
    for points in REVOCATIONS {
        revoke(installation, points)?;
    }
    ensure!(wait_for_exec(installation, &id)? == boot, "the VM booted again");
    killed(STOP, installation, || {
        acknowledged(installation, &id, "stop", &["stopping", "stopped"])?;
        api.wait(&id, "stopped")
    })?;
    ensure!(installation.vmm_pids()?.len() == vmms, "VMMs: {:?}", installation.vmm_pids()?);
    killed(DELETION, installation, || {
        deleted(installation, &format!("/workspaces/{id}"))?;
        gone(installation, &id)
    })?;
    restart(installation)
}
