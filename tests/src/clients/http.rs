//! The HTTP API as a client uses it: commands and files.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rigbox_testkit::blocking::eventually;
use serde_json::{Value, json};

use super::shared;
use crate::TestResult;
use crate::harness::api::Api;
use crate::harness::installation::Installation;

tests![
    systemd_in_the_vm_reaches_running,
    exec_returns_streams_exit_codes_and_signals,
    exec_refuses_invalid_commands,
    large_output_arrives_complete,
    command_ends_when_its_caller_disconnects,
    file_is_written_atomically_with_the_users_permissions,
    upload_that_breaks_off_changes_nothing,
    files_are_listed_renamed_watched_and_removed,
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
    // A file that exists is written as a shell would: it keeps its mode, its links, and is no other file.
    api.sh(&id, "echo old > run.sh; chmod 750 run.sh; ln run.sh hard; ln -s run.sh soft")?;
    ensure!(api.send("PUT", &url("soft"), b"new".to_vec())?.status == 200, "through a link of the user");
    let kept = api.sh(&id, "cat hard; stat -c ' %a %h %F' run.sh; stat -c %F soft")?;
    ensure!(kept == "new 750 2 regular file\nsymbolic link", "{kept}");
    ensure!(api.send("PUT", &format!("{}&mode=600", url("run.sh")), b"x".to_vec())?.status == 200, "mode");
    ensure!(api.sh(&id, "stat -c %a hard")? == "600", "a mode that is asked for");
    for refused in ["/dev/null&user=root", "/etc&user=root"] {
        let written = api.send("PUT", &url(refused), b"x".to_vec())?;
        ensure!(written.status == 400, "{refused}: {written:?}");
    }
    ensure!(api.sh(&id, "stat -c %F /dev/null")? == "character special file", "a device");
    // Nor through a link.
    api.sh(&id, "ln -sf /etc/shadow link")?;
    ensure!(api.get(&url("link"))?.status == 403, "through a link");
    Ok(())
}

fn upload_that_breaks_off_changes_nothing(installation: &Installation) -> TestResult {
    let (api, id) = (&installation.api, shared(installation)?);
    api.sh(&id, "mkdir -p broken && echo old > broken/file")?;
    for name in ["file", "new"] {
        let mut upload = open(api, "PUT", &format!("/workspaces/{id}/files?path=broken/{name}"), 1_000_000)?;
        upload.write_all(&[b'x'; 300_000])?;
    }
    eventually("the helpers end", Duration::from_secs(20), || {
        Ok((api.sh(&id, "pgrep -fc '^@rigbox-files' || true")? == "0").then_some(()))
    })?;
    let found = api.sh(&id, "ls -A broken; cat broken/file")?;
    ensure!(found == "file\nold", "{found}");
    Ok(())
}

/// Sends the head of a request on a connection of its own, whose end is then this test's.
fn open(api: &Api, method: &str, path: &str, length: usize) -> anyhow::Result<TcpStream> {
    let address = api.url.strip_prefix("http://").context("address")?;
    let mut connection = TcpStream::connect(address)?;
    connection.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(
        connection,
        "{method} /api/v1{path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\nContent-Length: {length}\r\n\r\n",
        api.key
    )?;
    Ok(connection)
}

fn files_are_listed_renamed_watched_and_removed(installation: &Installation) -> TestResult {
    let (api, id) = (&installation.api, shared(installation)?);
    let route = |route: &str| format!("/workspaces/{id}/files/{route}");
    let make = json!({"path": "tree/a", "create_parents": true, "mode": "700"});
    ensure!(api.post(&route("mkdir"), &make)?.status == 204, "mkdir");
    api.sh(&id, "echo hi > tree/a/file; ln -s file tree/a/link; mkfifo tree/a/pipe")?;
    let listed = api.get(&route("list?path=tree/a"))?.expect(200)?;
    let entries = listed.get("entries").and_then(Value::as_array).context("entries")?;
    let text = |entry: &Value, field: &str| entry.get(field).and_then(Value::as_str).map(str::to_owned);
    let kinds: Vec<_> = entries.iter().map(|entry| (text(entry, "name"), text(entry, "kind"))).collect();
    let wanted = [("file", "file"), ("link", "symlink"), ("pipe", "other")];
    ensure!(kinds == wanted.map(|(name, kind)| (Some(name.to_owned()), Some(kind.to_owned()))), "{listed}");
    let about = api.get(&route("stat?path=tree/a"))?.expect(200)?;
    ensure!(
        about.get("mode") == Some(&json!("700")) && about.get("kind") == Some(&json!("directory")),
        "{about}"
    );
    ensure!(api.get(&route("stat?path=/root/x"))?.status == 403, "a closed directory");
    ensure!(api.get(&route("list?path=nonesuch"))?.status == 404, "a missing directory");

    let mut events = open(api, "GET", &route("watch?path=tree/a"), 0)?;
    let mut text = String::new();
    let mut read_until = |wanted: &str| -> anyhow::Result<()> {
        // The stream never falls silent, because it is kept alive.
        let deadline = Instant::now() + Duration::from_secs(30);
        while !text.contains(wanted) {
            ensure!(Instant::now() < deadline, "no {wanted} in {text}");
            let mut chunk = [0; 512];
            let count = events.read(&mut chunk)?;
            ensure!(count > 0, "the stream ends before {wanted}: {text}");
            text.push_str(&String::from_utf8_lossy(chunk.get(..count).unwrap_or_default()));
        }
        Ok(())
    };
    read_until(r#"{"kind":"watching"}"#)?;
    let rename = json!({"from": "tree/a/file", "to": "tree/a/renamed"});
    ensure!(api.post(&route("rename"), &rename)?.status == 204, "rename");
    read_until(r#"{"kind":"removed","name":"file"}"#)?;
    read_until(r#"{"kind":"created","name":"renamed"}"#)?;

    let remove = |path: &str| api.delete(&format!("/workspaces/{id}/files?path={path}"));
    ensure!(remove("tree")?.status == 400, "a directory that is not empty");
    ensure!(remove("tree/a/link")?.status == 204 && remove("tree&recursive=true")?.status == 204, "remove");
    ensure!(
        remove("tree")?.status == 404 && remove("/etc/passwd")?.status == 403,
        "missing, and not the user's"
    );
    Ok(())
}
