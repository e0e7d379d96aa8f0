//! The CLI as a client: it creates the workspace that these modules share, and runs commands in it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::shared;
use crate::TestResult;
use crate::harness::installation::Installation;

tests![
    rig_spawns_a_vm_with_its_own_kernel,
    rig_exec_passes_on_exit_codes_and_streams,
    first_seconds_hold_what_running_promises,
    rig_exec_ends_as_asked,
    command_in_the_background_outlives_its_caller,
    files_and_directories_are_copied_both_ways,
    app_runs_the_command_it_was_given,
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
    ensure!(output.status.code() == Some(125), "{}", crate::harness::host::ending(output.status));
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
    ensure!(output.status.code() == Some(0), "start of what runs: {output:?}");
    for (command, code) in [("nonesuch", 127), ("/etc/passwd", 126), ("/etc", 126)] {
        let output = installation.rig(&["exec", "shared", "--", command]).output()?;
        ensure!(output.status.code() == Some(code), "{command}: {output:?}");
    }
    let output =
        installation.rig(&["exec", "--shell", "shared", "--", "echo", "a b | tr a-z A-Z"]).output()?;
    ensure!(output.stdout == b"A B\n", "{output:?}");
    Ok(())
}

fn first_seconds_hold_what_running_promises(installation: &Installation) -> TestResult {
    shared(installation)?;
    let output = installation.rig(&["workspace", "restart", "shared"]).output()?;
    ensure!(output.status.success(), "{output:?}");
    let exec = |command: &[&str]| -> anyhow::Result<String> {
        let output = installation.rig(&[&["exec", "shared", "--"], command].concat()).output()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        ensure!(output.status.success(), "{command:?}: {output:?}");
        Ok(text)
    };
    // What is written there now is not hidden by a later mount.
    exec(&["sh", "-c", "echo early > /dev/shm/early && [ -e /dev/pts/ptmx ]"])?;
    let blocks: u64 = exec(&["stat", "-f", "-c", "%b", "/"])?.parse()?;
    // Everything that needs systemd waits for it: as root, through a link, and as the user. A service that is about to start is not
    // reported as one that does not run.
    ensure!(exec(&["sudo", "systemctl", "is-active", "ssh"])? == "active", "the state of a service");
    exec(&["sudo", "systemctl", "start", "ssh"])?;
    exec(&["sudo", "service", "ssh", "status"])?;
    exec(&["systemctl", "show", "--property=Version"])?;

    let line = ["workspace", "start", "shared", "--wait", "system", "--output", "json"];
    let output = installation.rig(&line).output()?;
    let last = String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned();
    let last: Value = serde_json::from_str(&last)?;
    ensure!(last.pointer("/vm/system").and_then(Value::as_str) == Some("running"), "{last}");
    ensure!(exec(&["systemctl", "is-system-running"])? == "running", "systemd itself");
    ensure!(exec(&["cat", "/dev/shm/early"])? == "early", "a later mount");
    let later: u64 = exec(&["stat", "-f", "-c", "%b", "/"])?.parse()?;
    ensure!(blocks == later, "the disk grew from {blocks} to {later} blocks while commands ran");
    let mounts = exec(&["cat", "/proc/mounts"])?;
    ensure!(!mounts.contains("/usr/bin/systemctl"), "the stand-in for systemctl stays:\n{mounts}");
    Ok(())
}

fn rig_exec_ends_as_asked(installation: &Installation) -> TestResult {
    let id = shared(installation)?;
    let exec = |arguments: &[&str]| installation.rig(&[&["exec"], arguments].concat());
    // What leaves its process group is part of the command too.
    let output = exec(&["--timeout", "1s", "shared", "--", "setsid", "-w", "sleep", "8888"]).output()?;
    ensure!(output.status.code() == Some(124), "{output:?}");
    let left = installation.api.sh(&id, "pgrep -f '^sleep 8888' || true")?;
    ensure!(left.is_empty(), "processes outlive the timeout: {left}");
    // The end of piped input reaches a shell on a terminal.
    let mut shell =
        exec(&["-it", "shared", "--", "bash"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    std::io::Write::write_all(&mut shell.stdin.take().context("stdin")?, b"echo from-$((40 + 2))\n")?;
    let output = shell.wait_with_output()?;
    ensure!(String::from_utf8_lossy(&output.stdout).contains("from-42"), "{output:?}");
    // A signal gets there although the command reads none of its input; its own handler decides.
    let mut deaf = exec(&["shared", "--", "bash", "-c", "trap 'exit 42' INT; echo on; sleep 1000 & wait"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut input = deaf.stdin.take().context("stdin")?;
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut input, &vec![0; 8 << 20]));
    let mut first = [0; 3];
    std::io::Read::read_exact(deaf.stdout.as_mut().context("stdout")?, &mut first)?;
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(deaf.id())?),
        nix::sys::signal::Signal::SIGINT,
    )?;
    let status = deaf.wait()?;
    ensure!(status.code() == Some(42), "{}", crate::harness::host::ending(status));
    // `rig` has ended, so nobody reads the pipe.
    let _ = writer.join();
    Ok(())
}

fn command_in_the_background_outlives_its_caller(installation: &Installation) -> TestResult {
    shared(installation)?;
    let rig = |arguments: &[&str]| -> anyhow::Result<(Option<i32>, String)> {
        let output = installation.rig(arguments).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.stderr.is_empty(), "{arguments:?}: {output:?}");
        Ok((output.status.code(), text))
    };
    let script = "exec 2> /dev/null; trap 'echo ended; exit 5' TERM; echo begun; while :; do sleep 0.1; done";
    let (code, id) = rig(&["exec", "--detach", "shared", "--", "bash", "-c", script])?;
    let id = id.trim();
    ensure!(code == Some(0) && id.starts_with("pr-"), "{id}");
    let (_, listed) = rig(&["ps", "shared"])?;
    let line = listed.lines().find(|line| line.contains(id)).with_context(|| listed.clone())?;
    ensure!(line.contains("running") && line.contains("background"), "{line}");
    let mut attached = installation.rig(&["attach", "shared", id]).stdout(Stdio::piped()).spawn()?;
    let mut first = [0; 6];
    std::io::Read::read_exact(attached.stdout.as_mut().context("stdout")?, &mut first)?;
    ensure!(&first == b"begun\n", "{first:?}");
    ensure!(rig(&["kill", "shared", id])?.0 == Some(0), "kill");
    let output = attached.wait_with_output()?;
    ensure!(
        (output.status.code(), output.stdout.as_slice()) == (Some(5), b"ended\n".as_slice()),
        "{output:?}"
    );
    let attached = rig(&["attach", "shared", id])?;
    ensure!(attached == (Some(5), "begun\nended\n".to_owned()), "{attached:?}");
    let (_, listed) = rig(&["ps", "shared"])?;
    ensure!(listed.lines().any(|line| line.contains(id) && line.contains("exited (5)")), "{listed}");
    Ok(())
}

fn files_and_directories_are_copied_both_ways(installation: &Installation) -> TestResult {
    let id = shared(installation)?;
    let folder = tempfile::tempdir()?;
    let (tree, back) = (folder.path().join("tree"), folder.path().join("back"));
    fs::create_dir_all(tree.join("deep/empty"))?;
    let content: Vec<u8> = (0..700_000u32).flat_map(u32::to_le_bytes).collect();
    fs::write(tree.join("deep/data"), &content)?;
    fs::write(tree.join("run.sh"), "#!/bin/sh\necho ran\n")?;
    fs::set_permissions(tree.join("run.sh"), fs::Permissions::from_mode(0o755))?;
    std::os::unix::fs::symlink("deep/data", tree.join("link"))?;
    let cp = |source: &str, target: &str| -> anyhow::Result<std::process::Output> {
        Ok(installation.rig(&["cp", source, target]).output()?)
    };
    let local = |path: &std::path::Path| path.display().to_string();
    // Under a new name, and once more into the directory that is there now.
    for _ in 0..2 {
        let output = cp(&local(&tree), "shared:copied")?;
        ensure!(output.status.success(), "{output:?}");
    }
    let seen = installation.api.sh(
        &id,
        "copied/run.sh; stat -c '%U %a' copied/run.sh; readlink copied/link; ls copied/deep copied/tree/run.sh",
    )?;
    ensure!(
        seen == "ran\ndeveloper 755\ndeep/data\ncopied/tree/run.sh\n\ncopied/deep:\ndata\nempty",
        "{seen}"
    );
    installation.api.sh(&id, "rm -r copied/tree && mkfifo copied/pipe")?;
    let output = cp("shared:copied", &local(&back))?;
    ensure!(output.status.success(), "{output:?}");
    ensure!(String::from_utf8_lossy(&output.stderr).contains("copied/pipe"), "{output:?}");
    ensure!(fs::read(back.join("link"))? == content, "the content changed");
    ensure!(fs::metadata(back.join("run.sh"))?.permissions().mode() & 0o777 == 0o755, "the mode changed");
    ensure!(!back.join("pipe").exists() && back.join("deep/empty").is_dir(), "kinds of files");
    let output = cp("shared:nonesuch", &local(&folder.path().join("none")))?;
    ensure!(output.status.code() == Some(1) && !folder.path().join("none").exists(), "{output:?}");
    Ok(())
}

fn app_runs_the_command_it_was_given(installation: &Installation) -> TestResult {
    shared(installation)?;
    let rig = |arguments: &[&str]| -> anyhow::Result<String> {
        let output = installation.rig(arguments).output()?;
        ensure!(output.status.success(), "{arguments:?}: {output:?}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let health = |wanted: &str| {
        rigbox_testkit::blocking::eventually(wanted, Duration::from_secs(60), || {
            let said = rig(&["app", "health", "served"])?;
            Ok(said.contains(wanted).then_some(()))
        })
    };
    let command = "exec python3 -m http.server --bind 127.0.0.1 $PORT";
    let new =
        ["app", "new", "served", "--port", "8055", "-w", "shared", "--command", command, "-e", "PORT=8055"];
    rig(&new)?;
    // The address that is listened on is named.
    health("listens on 127.0.0.1:8055 only")?;
    rig(&["app", "command", "served", "exec python3 -m http.server $PORT"])?;
    health("live; service: active")?;
    rig(&["app", "rm", "served", "--force"])?;

    // Where it cannot run, nothing is created.
    let idle = installation.api.create("idle")?;
    let new = ["app", "new", "later", "--port", "8056", "-w", "idle", "--command", "true"];
    let refused = installation.rig(&new).output()?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && said.contains("rig workspace start idle"), "{refused:?}");
    ensure!(!rig(&["app", "ls"])?.contains("later"), "an app without its command");
    installation.api.remove(&idle)
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
    ensure!(run(&first)? == Some(125) && run(&second)? == Some(0), "after the rotation");
    let listed = event(&["api-key", "ls"])?.to_string();
    ensure!(listed.contains(&id) && !listed.contains(&second), "{listed}");
    event(&["api-key", "rm", &id])?;
    ensure!(run(&second)? == Some(125), "exec with a revoked key");
    Ok(())
}
