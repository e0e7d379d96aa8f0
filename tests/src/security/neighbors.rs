//! One hostile tenant beside an honest one: what the one stalls, exhausts or floods, the other does not feel.

use std::time::{Duration, Instant};

use anyhow::ensure;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::TestResult;
use crate::harness::installation::Installation;

tests![stalled_commands_stop_no_other_call];

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
