//! What people do with a workspace: spawn it, run commands in it, move files.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::installation::eventually;
use crate::{Kept, World};

pub(crate) const PROMISES: &[crate::Promise] = &[
    ("rig_spawns_a_vm_with_a_kernel_of_its_own", rig_spawns_a_vm_with_a_kernel_of_its_own),
    ("systemd_in_the_vm_says_running", systemd_in_the_vm_says_running),
    ("exec_carries_streams_codes_and_signals", exec_carries_streams_codes_and_signals),
    ("exec_refuses_what_cannot_run", exec_refuses_what_cannot_run),
    ("a_hundred_megabytes_arrive_whole", a_hundred_megabytes_arrive_whole),
    ("a_command_whose_caller_leaves_is_ended", a_command_whose_caller_leaves_is_ended),
    ("a_file_is_written_whole_or_not_at_all", a_file_is_written_whole_or_not_at_all),
    ("the_cli_passes_codes_and_streams_on", the_cli_passes_codes_and_streams_on),
    (
        "a_limited_key_uses_its_workspace_until_it_is_revoked",
        a_limited_key_uses_its_workspace_until_it_is_revoked,
    ),
];

/// The workspace that this module shares.
fn shared(world: &World) -> anyhow::Result<String> {
    let listed = world.api.get("/workspaces?name=shared")?.expect(200)?;
    match listed.pointer("/vms/0/id").and_then(Value::as_str) {
        Some(id) => Ok(id.to_owned()),
        None => world.api.spawn("shared"),
    }
}

fn rig_spawns_a_vm_with_a_kernel_of_its_own(world: &World) -> Kept {
    let output = world.rig(&["workspace", "spawn", "-n", "shared", "--output", "json"]).output()?;
    let text = String::from_utf8(output.stdout)?;
    let events = text.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
    let names: Vec<&str> = events.iter().filter_map(|event| event.get("event")?.as_str()).collect();
    ensure!(output.status.success() && names.len() == events.len(), "{text}");
    ensure!(names.first() == Some(&"creating") && names.last() == Some(&"ready"), "{names:?}");
    for wanted in ["created", "starting", "vm_status"] {
        ensure!(names.contains(&wanted), "no `{wanted}`: {names:?}");
    }
    let id = shared(world)?;
    let host = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let guest = world.api.sh(&id, "uname -r")?;
    ensure!(guest != host.trim(), "guest and host both run {guest}");
    ensure!(world.api.sh(&id, "hostname")? == "shared", "host name");
    ensure!(world.api.sh(&id, "id -un; pwd")? == "developer\n/home/developer", "user and home");
    let about: Value = serde_json::from_str(&world.api.sh(&id, "cat /etc/rigbox/workspace.json")?)?;
    ensure!(about.get("id").and_then(Value::as_str) == Some(&id), "{about}");
    let inside = world.api.sh(&id, "rig whoami --output json")?;
    ensure!(inside.contains("\"authed\":false") && inside.contains(&id), "rig in the VM: {inside}");
    Ok(())
}

fn systemd_in_the_vm_says_running(world: &World) -> Kept {
    let id = shared(world)?;
    eventually("is-system-running", Duration::from_secs(120), || {
        let ran = world.api.exec(&id, &json!({"command": "systemctl is-system-running"}))?;
        ensure!(
            ran.out() != "degraded",
            "failed units: {}",
            world.api.sh(&id, "systemctl --failed --plain")?
        );
        Ok((ran.out() == "running").then_some(()))
    })
}

fn exec_carries_streams_codes_and_signals(world: &World) -> Kept {
    let id = shared(world)?;
    let run = |body: Value| world.api.exec(&id, &body);
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
    let began = Instant::now();
    let ran = run(json!({"command": "sleep 60", "timeout_s": 1}))?;
    ensure!(ran.end.pointer("/error/code").and_then(Value::as_str) == Some("timeout"), "{ran:?}");
    ensure!(began.elapsed() < Duration::from_secs(20), "the time-out took {:?}", began.elapsed());
    let ran = run(json!({"command": "sleep 300 & echo started"}))?;
    ensure!(ran.out() == "started", "a background process is not waited for: {ran:?}");
    world.api.sh(&id, "pkill sleep").map(drop)
}

fn exec_refuses_what_cannot_run(world: &World) -> Kept {
    let id = shared(world)?;
    let path = format!("/workspaces/{id}/exec");
    let ran = world.api.exec(&id, &json!({"command": ["no-such-program"]}))?;
    ensure!(ran.end.pointer("/error/code").and_then(Value::as_str) == Some("not_found"), "{ran:?}");
    ensure!(ran.end.to_string().contains("no-such-program"), "{ran:?}");
    let ran = world.api.exec(&id, &json!({"command": ["true"], "cwd": "/nonesuch"}))?;
    ensure!(ran.end.pointer("/error/code").and_then(Value::as_str) == Some("not_found"), "{ran:?}");
    for body in [
        json!({}),
        json!({"command": []}),
        json!({"command": "true", "user": "daemon"}),
        json!({"command": "true", "stdin_b64": "%"}),
        json!({"command": "true", "shell": "zsh"}),
    ] {
        let answer = world.api.post(&path, &body)?;
        ensure!(answer.status == 400, "{body}: {} {}", answer.status, answer.body);
    }
    Ok(())
}

fn a_hundred_megabytes_arrive_whole(world: &World) -> Kept {
    let id = shared(world)?;
    let line = "python3 -c 'import sys\nfor i in range(100): sys.stdout.buffer.write(bytes([i]) * 1000003)'";
    let ran = world.api.exec(&id, &json!({"command": line}))?;
    ensure!(
        ran.exit_code() == Some(0) && ran.stdout.len() == 100 * 1_000_003,
        "{} bytes, {}",
        ran.stdout.len(),
        ran.end
    );
    for (number, piece) in ran.stdout.chunks(1_000_003).enumerate() {
        ensure!(piece.iter().all(|byte| usize::from(*byte) == number), "piece {number} is damaged");
    }
    Ok(())
}

fn a_command_whose_caller_leaves_is_ended(world: &World) -> Kept {
    let id = shared(world)?;
    // One that prints for ever, and one that is deaf to HUP.
    for line in ["exec yes for-ever-one", "trap '' HUP; echo on; exec -a for-ever-two sleep 1000"] {
        world.api.exec_and_leave(&id, line)?;
    }
    eventually("the commands end", Duration::from_secs(30), || {
        let ran = world.api.exec(&id, &json!({"command": "pgrep -fc '^(yes )?for-ever' || true"}))?;
        Ok((ran.out() == "0").then_some(()))
    })
}

fn a_file_is_written_whole_or_not_at_all(world: &World) -> Kept {
    let (api, id) = (&world.api, shared(world)?);
    let url = |path: &str| format!("/workspaces/{id}/files?path={path}");
    let content: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    let written = api.send("PUT", &url("deep.bin"), content.clone())?;
    ensure!(written.status < 300, "{written:?}");
    ensure!(api.bytes(&url("/home/developer/deep.bin"))? == content, "it comes back changed");
    ensure!(
        api.sh(&id, "stat -c '%U %s' deep.bin; ls -A | grep -c 'deep.bin.' || true")?
            == "developer 12000000\n0",
        "owner"
    );
    ensure!(api.get(&url("/nonesuch"))?.status == 404, "a file that is not there");
    ensure!(api.get(&url("/root/.bashrc"))?.status == 403, "a file that the user may not read");
    let refused = api.send("PUT", &url("/etc/passwd"), b"root::0:0::/:".to_vec())?;
    ensure!(refused.status == 403, "a file that the user may not write: {refused:?}");
    // A link to somebody else's file gives nothing away either.
    api.sh(&id, "ln -sf /etc/shadow link")?;
    ensure!(api.get(&url("link"))?.status == 403, "by a link");
    Ok(())
}

fn the_cli_passes_codes_and_streams_on(world: &World) -> Kept {
    let output =
        world.rig(&["exec", "shared", "--", "sh", "-c", "echo out; echo err >&2; exit 9"]).output()?;
    ensure!(output.status.code() == Some(9), "{}", crate::host::ending(output.status));
    ensure!(
        (output.stdout.as_slice(), output.stderr.as_slice()) == (b"out\n".as_slice(), b"err\n".as_slice()),
        "{output:?}"
    );
    let output = world.rig(&["exec", "shared", "--", "sh", "-c", "kill -TERM $$"]).output()?;
    ensure!(output.status.code() == Some(143), "{}", crate::host::ending(output.status));
    let output = world.rig(&["exec", "nonesuch", "--", "true"]).output()?;
    ensure!(output.status.code() == Some(255), "{}", crate::host::ending(output.status));
    let mut child = world
        .rig(&["exec", "-i", "shared", "--", "tr", "a-z", "A-Z"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    std::io::Write::write_all(&mut child.stdin.take().context("stdin")?, b"loud\n")?;
    ensure!(child.wait_with_output()?.stdout == b"LOUD\n", "standard input");
    let output = world.rig(&["workspace", "ls", "--output", "json"]).output()?;
    let listed: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(listed.get("event").and_then(Value::as_str) == Some("workspace_ls"), "{listed}");
    let output = world.rig(&["workspace", "start", "-n", "shared", "--output", "json"]).output()?;
    ensure!(output.status.code() == Some(1), "{}", crate::host::ending(output.status));
    let last: Value = serde_json::from_slice(
        output.stdout.split(|b| *b == b'\n').rfind(|line| !line.is_empty()).context("no event")?,
    )?;
    ensure!(last.get("event").and_then(Value::as_str) == Some("error"), "{last}");
    ensure!(last.get("code").and_then(Value::as_str) == Some("invalid_state"), "{last}");
    Ok(())
}

fn a_limited_key_uses_its_workspace_until_it_is_revoked(world: &World) -> Kept {
    let event = |arguments: &[&str]| -> anyhow::Result<Value> {
        let output = world.rig(&[&["--output", "json"], arguments].concat()).output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    let text = |event: &Value, at: &str| -> anyhow::Result<String> {
        Ok(event.pointer(at).and_then(Value::as_str).with_context(|| format!("{at} in {event}"))?.to_owned())
    };
    let made = event(&["api-key", "new", "agent", "-w", "shared", "--role", "operate"])?;
    let id = text(&made, "/api_key/id")?;
    let run = |key: &str| -> anyhow::Result<Option<i32>> {
        let mut command = world.rig(&["exec", "shared", "--", "true"]);
        Ok(command.env("RIG_API_KEY", key).output()?.status.code())
    };
    let first = text(&made, "/key")?;
    ensure!(run(&first)? == Some(0), "exec with the limited key");
    let spawn = world.rig(&["workspace", "new", "-n", "more"]).env("RIG_API_KEY", &first).output()?;
    ensure!(spawn.status.code() == Some(1), "it made a workspace");
    let second = text(&event(&["api-key", "rotate", &id])?, "/key")?;
    ensure!(run(&first)? == Some(255) && run(&second)? == Some(0), "after the rotation");
    let listed = event(&["api-key", "ls"])?.to_string();
    ensure!(listed.contains(&id) && !listed.contains(&second), "{listed}");
    event(&["api-key", "rm", &id])?;
    ensure!(run(&second)? == Some(255), "exec with a revoked key");
    Ok(())
}
