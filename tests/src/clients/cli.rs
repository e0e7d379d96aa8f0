//! The CLI as a client: it creates the workspace that these modules share, and runs commands in it.

use std::process::Stdio;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::shared;
use crate::TestResult;
use crate::harness::installation::Installation;

tests![
    rig_spawns_a_vm_with_its_own_kernel,
    rig_exec_passes_on_exit_codes_and_streams,
    limited_key_works_on_its_workspace_until_revoked,
];

fn rig_spawns_a_vm_with_its_own_kernel(installation: &Installation) -> TestResult {
    let output = installation.rig(&["workspace", "spawn", "-n", "shared", "--output", "json"]).output()?;
    let text = String::from_utf8(output.stdout)?;
    let events = text.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
    let names: Vec<&str> = events.iter().filter_map(|event| event.get("event")?.as_str()).collect();
    ensure!(output.status.success() && names.len() == events.len(), "{text}");
    ensure!(names.first() == Some(&"creating") && names.last() == Some(&"ready"), "{names:?}");
    for wanted in ["created", "starting", "vm_status"] {
        ensure!(names.contains(&wanted), "no `{wanted}`: {names:?}");
    }
    // A terminal is there from the first moment, before systemd has mounted anything.
    let output = installation.rig(&["exec", "-t", "shared", "--", "tty"]).output()?;
    ensure!(output.stdout.starts_with(b"/dev/pts/"), "{output:?}");
    let id = shared(installation)?;
    let host = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let guest = installation.api.sh(&id, "uname -r")?;
    ensure!(guest != host.trim(), "guest and host both run {guest}");
    ensure!(installation.api.sh(&id, "hostname")? == "shared", "host name");
    ensure!(installation.api.sh(&id, "id -un; pwd")? == "developer\n/home/developer", "user and home");
    let about: Value = serde_json::from_str(&installation.api.sh(&id, "cat /etc/rigbox/workspace.json")?)?;
    ensure!(about.get("id").and_then(Value::as_str) == Some(&id), "{about}");
    let inside = installation.api.sh(&id, "rig whoami --output json")?;
    ensure!(inside.contains("\"authed\":false") && inside.contains(&id), "rig in the VM: {inside}");
    Ok(())
}

fn rig_exec_passes_on_exit_codes_and_streams(installation: &Installation) -> TestResult {
    shared(installation)?;
    let output =
        installation.rig(&["exec", "shared", "--", "sh", "-c", "echo out; echo err >&2; exit 9"]).output()?;
    ensure!(output.status.code() == Some(9), "{}", crate::harness::host::ending(output.status));
    ensure!(
        (output.stdout.as_slice(), output.stderr.as_slice()) == (b"out\n".as_slice(), b"err\n".as_slice()),
        "{output:?}"
    );
    let output = installation.rig(&["exec", "shared", "--", "sh", "-c", "kill -TERM $$"]).output()?;
    ensure!(output.status.code() == Some(143), "{}", crate::harness::host::ending(output.status));
    let output = installation.rig(&["exec", "nonesuch", "--", "true"]).output()?;
    ensure!(output.status.code() == Some(255), "{}", crate::harness::host::ending(output.status));
    let mut child = installation
        .rig(&["exec", "-i", "shared", "--", "tr", "a-z", "A-Z"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    std::io::Write::write_all(&mut child.stdin.take().context("stdin")?, b"loud\n")?;
    ensure!(child.wait_with_output()?.stdout == b"LOUD\n", "standard input");
    let output = installation.rig(&["workspace", "ls", "--output", "json"]).output()?;
    let listed: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(listed.get("event").and_then(Value::as_str) == Some("workspace_ls"), "{listed}");
    let output = installation.rig(&["workspace", "start", "-n", "shared", "--output", "json"]).output()?;
    ensure!(output.status.code() == Some(1), "{}", crate::harness::host::ending(output.status));
    let last: Value = serde_json::from_slice(
        output.stdout.split(|b| *b == b'\n').rfind(|line| !line.is_empty()).context("no event")?,
    )?;
    ensure!(last.get("event").and_then(Value::as_str) == Some("error"), "{last}");
    ensure!(last.get("code").and_then(Value::as_str) == Some("invalid_state"), "{last}");
    Ok(())
}

fn limited_key_works_on_its_workspace_until_revoked(installation: &Installation) -> TestResult {
    shared(installation)?;
    let event = |arguments: &[&str]| -> anyhow::Result<Value> {
        let output = installation.rig(&[&["--output", "json"], arguments].concat()).output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    let text = |event: &Value, at: &str| -> anyhow::Result<String> {
        Ok(event.pointer(at).and_then(Value::as_str).with_context(|| format!("{at} in {event}"))?.to_owned())
    };
    let created = event(&["api-key", "new", "agent", "-w", "shared", "--role", "operate"])?;
    let id = text(&created, "/api_key/id")?;
    let run = |key: &str| -> anyhow::Result<Option<i32>> {
        let mut command = installation.rig(&["exec", "shared", "--", "true"]);
        Ok(command.env("RIG_API_KEY", key).output()?.status.code())
    };
    let first = text(&created, "/key")?;
    ensure!(run(&first)? == Some(0), "exec with the limited key");
    let spawn = installation.rig(&["workspace", "new", "-n", "more"]).env("RIG_API_KEY", &first).output()?;
    ensure!(spawn.status.code() == Some(1), "it created a workspace");
    let second = text(&event(&["api-key", "rotate", &id])?, "/key")?;
    ensure!(run(&first)? == Some(255) && run(&second)? == Some(0), "after the rotation");
    let listed = event(&["api-key", "ls"])?.to_string();
    ensure!(listed.contains(&id) && !listed.contains(&second), "{listed}");
    event(&["api-key", "rm", &id])?;
    ensure!(run(&second)? == Some(255), "exec with a revoked key");
    Ok(())
}
