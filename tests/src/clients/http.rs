//! The HTTP API as a client uses it: commands and files.

use std::time::{Duration, Instant};

use anyhow::ensure;
use rigbox_testkit::blocking::eventually;
use serde_json::{Value, json};

use super::shared;
use crate::TestResult;
use crate::harness::installation::Installation;

tests![
    systemd_in_the_vm_reaches_running,
    exec_returns_streams_exit_codes_and_signals,
    exec_refuses_invalid_commands,
    large_output_arrives_complete,
    command_ends_when_its_caller_disconnects,
    file_is_written_atomically_with_the_users_permissions,
];

fn systemd_in_the_vm_reaches_running(installation: &Installation) -> TestResult {
    let id = shared(installation)?;
    eventually("is-system-running", Duration::from_secs(120), || {
        let ran = installation.api.exec(&id, &json!({"command": "systemctl is-system-running"}))?;
        ensure!(
            ran.out() != "degraded",
            "failed units: {}",
            installation.api.sh(&id, "systemctl --failed --plain")?
        );
        Ok((ran.out() == "running").then_some(()))
    })
}

fn exec_returns_streams_exit_codes_and_signals(installation: &Installation) -> TestResult {
    let id = shared(installation)?;
    let run = |body: Value| installation.api.exec(&id, &body);
    let ran = run(json!({"command": "echo out; echo err >&2; exit 7"}))?;
    ensure!((ran.out().as_str(), ran.stderr.as_slice()) == ("out", b"err\n".as_slice()), "{ran:?}");
    ensure!(ran.exit_code() == Some(7), "{ran:?}");
    // "hello" in base64.
    let ran = run(json!({"command": ["cat"], "stdin_b64": "aGVsbG8="}))?;
    ensure!(ran.out() == "hello" && ran.exit_code() == Some(0), "{ran:?}");
    let ran = run(json!({"command": ["sh", "-c", "kill -KILL $$"]}))?;
    ensure!(ran.end.get("signal").and_then(Value::as_str) == Some("KILL"), "{ran:?}");
    let ran = run(json!({"command": ["printenv", "A"], "env": {"A": "b c"}}))?;
    ensure!(ran.out() == "b c", "{ran:?}");
    let ran = run(json!({"command": ["pwd"], "cwd": "/usr"}))?;
    ensure!(ran.out() == "/usr", "{ran:?}");
    let ran = run(json!({"command": ["id", "-u"], "user": "root"}))?;
    ensure!(ran.out() == "0", "{ran:?}");
    let started = Instant::now();
    let ran = run(json!({"command": "sleep 60", "timeout_s": 1}))?;
    ensure!(ran.end.pointer("/error/code").and_then(Value::as_str) == Some("timeout"), "{ran:?}");
    ensure!(started.elapsed() < Duration::from_secs(20), "the time-out took {:?}", started.elapsed());
    let ran = run(json!({"command": "sleep 300 & echo started"}))?;
    ensure!(ran.out() == "started", "a background process is not waited for: {ran:?}");
    installation.api.sh(&id, "pkill sleep").map(drop)
}

fn exec_refuses_invalid_commands(installation: &Installation) -> TestResult {
    let id = shared(installation)?;
    let path = format!("/workspaces/{id}/exec");
    let ran = installation.api.exec(&id, &json!({"command": ["no-such-program"]}))?;
    ensure!(ran.end.pointer("/error/code").and_then(Value::as_str) == Some("not_found"), "{ran:?}");
    ensure!(ran.end.to_string().contains("no-such-program"), "{ran:?}");
    let ran = installation.api.exec(&id, &json!({"command": ["true"], "cwd": "/nonesuch"}))?;
    ensure!(ran.end.pointer("/error/code").and_then(Value::as_str) == Some("not_found"), "{ran:?}");
    for body in [
        json!({}),
        json!({"command": []}),
        json!({"command": "true", "user": "daemon"}),
        json!({"command": "true", "stdin_b64": "%"}),
        json!({"command": "true", "shell": "zsh"}),
    ] {
        let response = installation.api.post(&path, &body)?;
        ensure!(response.status == 400, "{body}: {} {}", response.status, response.body);
    }
    Ok(())
}

fn large_output_arrives_complete(installation: &Installation) -> TestResult {
    let id = shared(installation)?;
    let line = "python3 -c 'import sys\nfor i in range(100): sys.stdout.buffer.write(bytes([i]) * 1000003)'";
    let ran = installation.api.exec(&id, &json!({"command": line}))?;
    ensure!(
        ran.exit_code() == Some(0) && ran.stdout.len() == 100 * 1_000_003,
        "{} bytes, {}",
        ran.stdout.len(),
        ran.end
    );
    for (number, chunk) in ran.stdout.chunks(1_000_003).enumerate() {
        ensure!(chunk.iter().all(|byte| usize::from(*byte) == number), "chunk {number} is corrupt");
    }
    Ok(())
}

fn command_ends_when_its_caller_disconnects(installation: &Installation) -> TestResult {
    let id = shared(installation)?;
    // One that prints without end, and one that ignores HUP.
    for line in ["exec yes for-ever-one", "trap '' HUP; echo on; exec -a for-ever-two sleep 1000"] {
        installation.api.exec_and_disconnect(&id, line)?;
    }
    eventually("the commands end", Duration::from_secs(30), || {
        let ran = installation.api.exec(&id, &json!({"command": "pgrep -fc '^(yes )?for-ever' || true"}))?;
        Ok((ran.out() == "0").then_some(()))
    })
}

fn file_is_written_atomically_with_the_users_permissions(installation: &Installation) -> TestResult {
    let (api, id) = (&installation.api, shared(installation)?);
    let url = |path: &str| format!("/workspaces/{id}/files?path={path}");
    let content: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    let written = api.send("PUT", &url("deep.bin"), content.clone())?;
    ensure!(written.status < 300, "{written:?}");
    ensure!(api.bytes(&url("/home/developer/deep.bin"))? == content, "the content changed");
    ensure!(
        api.sh(&id, "stat -c '%U %s' deep.bin; ls -A | grep -c 'deep.bin.' || true")?
            == "developer 12000000\n0",
        "owner"
    );
    ensure!(api.get(&url("/nonesuch"))?.status == 404, "a missing file");
    ensure!(api.get(&url("/root/.bashrc"))?.status == 403, "an unreadable file");
    let refused = api.send("PUT", &url("/etc/passwd"), b"root::0:0::/:".to_vec())?;
    ensure!(refused.status == 403, "an unwritable file: {refused:?}");
    // Nor through a link.
    api.sh(&id, "ln -sf /etc/shadow link")?;
    ensure!(api.get(&url("link"))?.status == 403, "through a link");
    Ok(())
}
