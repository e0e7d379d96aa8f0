//! Refusals and ends: strangers are refused in the same words, and sessions end with what they were granted by.

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rigbox_testkit::blocking::eventually;
use serde_json::{Value, json};

use super::client::{Client, Running, finish, remove_key, shown, succeed, target};
use crate::TestResult;
use crate::clients::shared;
use crate::harness::api::Api;
use crate::harness::console::Console;
use crate::harness::installation::Installation;
use crate::harness::roles;
use crate::security::gateway_dial::{aim, boot_of, connects};

tests![
    strangers_are_refused_in_the_same_words,
    session_ends_with_its_key_and_is_recorded,
    stopped_workspace_is_named_to_its_owner,
    ssh_gateway_dials_the_ssh_server_alone,
];

/// Time in which a revoked session has to end: a second, and what a loaded machine takes.
const REVOCATION_TIMEOUT: Duration = Duration::from_secs(5);

fn strangers_are_refused_in_the_same_words(installation: &Installation) -> TestResult {
    let id = shared(installation)?;
    let host = target("shared", &id);
    let known = Client::registered(installation, "known", "ed25519")?;
    let stranger = Client::unregistered(installation, "stranger", "ed25519")?;
    let other = other_user(installation)?;
    let theirs = Client::unregistered(installation, "theirs", "ed25519")?;
    other.post("/ssh-keys", &json!({"name": "theirs", "public_key": theirs.public_key()?}))?.expect(201)?;
    let deleted = Client::registered(installation, "deleted", "ed25519")?;
    ensure!(deleted.output(&[&host, "echo in"])? == "in", "before it is deleted");
    remove_key(installation, "deleted")?;
    let short = Client::unregistered(installation, "short", "rsa")?;
    fs::remove_file(short.path("key"))?;
    let mut keygen = Command::new("ssh-keygen");
    succeed(keygen.args(["-q", "-t", "rsa", "-b", "2048", "-N", "", "-f"]).arg(short.path("key")))?;
    let key = json!({"name": "short", "public_key": short.public_key()?});
    let registered = installation.api.post("/ssh-keys", &key)?;
    ensure!(registered.code() == "weak_key", "{registered:?}");
    let no_key = ["-o", "PubkeyAuthentication=no"];
    let methods = |methods| [&["-o", methods, "-o", "BatchMode=no"][..], &[&host, "true"]].concat();
    let refused = [
        known.ssh(&["nobody-aaaaaaaa@127.0.0.1", "true"])?,
        known.ssh(&["root@127.0.0.1", "true"])?,
        stranger.ssh(&[&host, "true"])?,
        stranger.ssh(&["nobody-aaaaaaaa@127.0.0.1", "true"])?,
        theirs.ssh(&[&host, "true"])?,
        deleted.ssh(&[&host, "true"])?,
        short.ssh(&[&host, "true"])?,
        known.ssh(&[&no_key[..], &[&host, "true"]].concat())?,
        known.ssh(&methods("PreferredAuthentications=password"))?,
        known.ssh(&methods("PreferredAuthentications=keyboard-interactive"))?,
    ];
    for output in &refused {
        let text = String::from_utf8_lossy(&output.stderr);
        let last = text.trim().lines().last().unwrap_or_default();
        let is_same = last.ends_with("127.0.0.1: Permission denied (publickey).");
        ensure!(output.status.code() == Some(255) && is_same, "{}", shown(output));
    }
    // Offering several keys is no offense.
    let added = format!("IdentityFile={}", known.path("key").display());
    let several = stranger.output(&["-o", &added, &host, "echo second"])?;
    ensure!(several == "second", "the second key");
    Ok(())
}

/// Returns the API as another user.
fn other_user(installation: &Installation) -> Result<Api> {
    const EMAIL: &str = "ssh-other@example.org";
    if !installation.admin(&["user", "ls"])?.contains(EMAIL) {
        installation.admin(&["user", "add", EMAIL])?;
    }
    let mut console = Console::new(installation)?;
    console.follow(&installation.admin(&["login-link", EMAIL])?)?;
    installation.api.with_key(&console.create_key("ssh")?)
}

fn session_ends_with_its_key_and_is_recorded(installation: &Installation) -> TestResult {
    let id = shared(installation)?;
    let client = Client::registered(installation, "revoked", "ed25519")?;
    let mut command = client.program("ssh");
    command.args([target("shared", &id).as_str(), "echo begun; sleep 1000"]);
    let mut child = Running(command.spawn()?);
    let mut begun = [0; 6];
    child.read(&mut begun)?;
    remove_key(installation, "revoked")?;
    let since = Instant::now();
    let output = finish(&mut child.0, REVOCATION_TIMEOUT)?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(255) && text.contains("access"), "{}", shown(&output));
    eprintln!("the session ended {} ms after its key", since.elapsed().as_millis());
    eventually("the session is in the audit log", Duration::from_secs(10), || {
        let log = installation.api.get("/audit-log?limit=200")?.expect(200)?.to_string();
        Ok((log.contains("ssh.open") && log.contains("ssh.close")).then_some(()))
    })
}

fn stopped_workspace_is_named_to_its_owner(installation: &Installation) -> TestResult {
    let id = installation.api.create("asleep")?;
    let client = Client::registered(installation, "asleep", "ed25519")?;
    let output = client.ssh(&[&target("asleep", &id), "true"])?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(255), "{}", shown(&output));
    ensure!(
        text.contains("The workspace `asleep` is provisioned") && text.contains("rig workspace start"),
        "{text}"
    );
    installation.api.remove(&id)
}

fn ssh_gateway_dials_the_ssh_server_alone(installation: &Installation) -> TestResult {
    let id = shared(installation)?;
    let boot = boot_of(installation, &id)?;
    let dial = |port| roles::dial_ssh(installation, &id, &boot, port);
    let given = dial(22)?.map_err(anyhow::Error::msg)?;
    ensure!(connects(&given)?, "no connection");
    let mut stream = TcpStream::from(given);
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut version = [0; 8];
    stream.read_exact(&mut version)?;
    ensure!(&version == b"SSH-2.0-", "no SSH server");
    for port in [80, 8000, 4711] {
        ensure!(dial(port)?.err().as_deref() == Some("port_not_listed"), "port {port} was dialed");
    }
    let held = dial(22)?.map_err(anyhow::Error::msg)?;
    // A gateway that was taken over may reconnect a socket, and gets nowhere else: neither to an app of the same VM nor to the host.
    let web =
        installation.api.post("/apps", &json!({"name": "beside-ssh", "workspace_id": id, "port": 4713}))?;
    let web = web.expect(201)?;
    installation.api.sh(&id, "setsid python3 -m http.server 4713 >/dev/null 2>&1 </dev/null &")?;
    for (address, port) in
        [([172, 16, 0, 2], 4713), ([172, 16, 0, 1], 9090), ([127, 0, 0, 1], 7070), ([8, 8, 8, 8], 22)]
    {
        ensure!(!aim(&held, address.into(), port)?, "the socket reached {address:?}:{port}");
    }
    ensure!(aim(&held, [172, 16, 0, 2].into(), 22)?, "the test cannot aim a socket");
    let app = web.pointer("/app/id").and_then(Value::as_str).context("no app")?;
    installation.api.delete(&format!("/apps/{app}"))?.expect(200).map(drop)
}
