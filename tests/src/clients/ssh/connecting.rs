//! Ways to connect: to a stopped workspace that is started, over the API, to a host key that is rotated, and as editors do.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rigbox_testkit::blocking::eventually;

use super::client::{Client, Running, TIMEOUT, free_port, remove_key, shown, target};
use super::forwards::socks;
use crate::TestResult;
use crate::clients::shared;
use crate::harness::installation::Installation;

tests![
    stopped_workspace_is_started_for_its_owner,
    connection_over_the_api_takes_both_keys,
    next_host_key_is_learned_before_it_is_used,
    editors_script_and_forward_share_a_connection,
];

/// Time in which the gateway follows a rotation.
const ROTATION_TIMEOUT: Duration = Duration::from_secs(20);

fn stopped_workspace_is_started_for_its_owner(installation: &Installation) -> TestResult {
    let client = Client::registered(installation, "starter", "ed25519")?;
    let id = installation.api.create("sleeper")?;
    let set = installation.rig(&["workspace", "ssh-info", "sleeper", "--start-on-connect"]).output()?;
    ensure!(
        String::from_utf8_lossy(&set.stdout).contains("It is started when you connect."),
        "{}",
        shown(&set)
    );
    let ran = client.ssh(&[&target("sleeper", &id), "echo awake"])?;
    ensure!(ran.status.success() && ran.stdout == b"awake\n", "{}", shown(&ran));
    let told = String::from_utf8_lossy(&ran.stderr);
    ensure!(told.contains("The workspace `sleeper` is starting."), "{told}");
    remove_key(installation, "starter")?;
    installation.api.remove(&id)
}

fn connection_over_the_api_takes_both_keys(installation: &Installation) -> TestResult {
    let id = shared(installation)?;
    let client = Client::registered(installation, "inside", "ed25519")?;
    let stranger = Client::unregistered(installation, "outside", "ed25519")?;
    for each in [&client, &stranger] {
        each.write_config(installation, &["--stdio"])?;
    }
    let over_api = |client: &Client, key: &str, line: &str| {
        client.ssh_by_config(installation, key, &["shared.rigbox", line])
    };
    let line = "head -c 3000000 /dev/zero | sha256sum; exit 5";
    let ran = over_api(&client, &installation.key, line)?;
    let direct = client.ssh(&[&target("shared", &id), line])?;
    ensure!(ran.status.code() == Some(5) && ran.stdout == direct.stdout, "{}", shown(&ran));
    let refused = over_api(&stranger, &installation.key, "true")?;
    ensure!(shown(&refused).contains("Permission denied (publickey)"), "{}", shown(&refused));
    let refused = over_api(&client, "rb_live_nobody", "true")?;
    ensure!(
        refused.status.code() == Some(255) && !shown(&refused).contains("publickey"),
        "{}",
        shown(&refused)
    );
    // The API's own address would be one for all.
    let log = installation.api.get("/audit-log")?.expect(200)?.to_string();
    ensure!(log.contains("ssh.open") && log.contains("127.0.0.1"), "{log}");
    remove_key(installation, "inside")
}

fn next_host_key_is_learned_before_it_is_used(installation: &Installation) -> TestResult {
    let id = shared(installation)?;
    let host = target("shared", &id);
    let client = Client::registered(installation, "rotated", "ed25519")?;
    let strict = ["-o", "UpdateHostKeys=yes", &host, "true"];
    client.output(&strict)?;
    let known = || -> Result<usize> { Ok(fs::read_to_string(client.path("known_hosts"))?.lines().count()) };
    ensure!(known()? == 1, "before a rotation");
    client.write_config(installation, &[])?;
    let by_config = || -> TestResult {
        let ran = client.ssh_by_config(installation, &installation.key, &["shared.rigbox", "true"])?;
        ensure!(ran.status.success(), "with the configuration of rig: {}", shown(&ran));
        Ok(())
    };
    by_config()?;
    let announced = installation.admin(&["ssh-host-key", "rotate"])?;
    let next = announced.lines().find_map(|line| line.strip_prefix("next ")).context("no next key")?.trim();
    eventually("the client learns the next key", ROTATION_TIMEOUT, || {
        client.output(&strict)?;
        Ok((known()? == 2).then_some(()))
    })?;
    by_config()?;
    let used = installation.admin(&["ssh-host-key", "rotate", "--now"])?;
    ensure!(used.contains(&format!("in use  {next}")), "{used}");
    // The client knows both, and forgets the one that is no longer announced.
    eventually("the next key is in use", ROTATION_TIMEOUT, || {
        client.output(&strict)?;
        Ok((known()? == 1).then_some(()))
    })?;
    by_config()?;
    let stranger = Client::unregistered(installation, "unaware", "ed25519")?;
    fs::copy(client.path("known_hosts"), stranger.path("known_hosts"))?;
    let replaced = installation.admin(&["ssh-host-key", "rotate", "--now"])?;
    ensure!(replaced.contains("It was not announced"), "{replaced}");
    eventually("a key that was not announced is refused", TIMEOUT, || {
        let output = stranger.ssh(&["-o", "StrictHostKeyChecking=yes", &host, "true"])?;
        Ok(shown(&output).contains("REMOTE HOST IDENTIFICATION HAS CHANGED").then_some(()))
    })?;
    remove_key(installation, "rotated")
}

/// As VS Code connects: a shell without a terminal that takes a script, and a SOCKS server to what the script starts.
fn editors_script_and_forward_share_a_connection(installation: &Installation) -> TestResult {
    let id = shared(installation)?;
    let client = Client::registered(installation, "editor", "ed25519")?;
    let dynamic = free_port()?.to_string();
    let arguments = ["-T", "-D", &dynamic, "-o", "ConnectTimeout=15", &target("shared", &id), "bash"];
    let mut editor = client.start(&arguments)?;
    let server = "import http.server as h; s = h.HTTPServer((\"127.0.0.1\", 0), h.SimpleHTTPRequestHandler); print(s.server_port, flush=True); s.serve_forever()";
    let script = format!("uname -s\npython3 -c '{server}' 2>/dev/null\n");
    editor.0.stdin.as_mut().context("stdin")?.write_all(script.as_bytes())?;
    ensure!(line(&mut editor)? == "Linux", "the script's first line");
    let port: u16 = line(&mut editor)?.parse()?;
    let mut stream = TcpStream::connect(format!("127.0.0.1:{dynamic}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    socks(&mut stream, [127, 0, 0, 1], port)?;
    let mut agreed = [0; 2 + 10];
    stream.read_exact(&mut agreed)?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.contains("200 OK"), "{answer}");
    remove_key(installation, "editor")
}

fn line(running: &mut Running) -> Result<String> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    loop {
        running.read(&mut byte)?;
        match byte {
            [b'\n'] => return Ok(String::from_utf8(line)?),
            [other] => line.push(other),
        }
    }
}
