//! Commands by OpenSSH's client, and by `rig`: they run, end and are refused as with a plain server.

use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rigbox_testkit::blocking::eventually;
use serde_json::{Value, json};

use super::client::{Client, TIMEOUT, finish, remove_key, run, shown, succeed, target};
use crate::TestResult;
use crate::clients::shared;
use crate::harness::installation::{Installation, SSH_PORT};

tests![
    commands_run_as_with_a_plain_server,
    ends_are_those_of_the_command,
    variables_pass_as_the_server_accepts_them,
    keys_are_replaced_under_way,
    full_server_refuses_another_session_at_once,
    rig_reaches_workspaces_by_name,
];

fn commands_run_as_with_a_plain_server(installation: &Installation) -> TestResult {
    let id = shared(installation)?;
    let client = Client::registered(installation, "plain", "ed25519")?;
    let host = target("shared", &id);
    ensure!(client.output(&[&host, "id -un; hostname"])? == "developer\nshared", "another place");
    // By its name alone, if that is unique among the owner's.
    ensure!(client.output(&["shared@127.0.0.1", "echo by name"])? == "by name", "by name");
    let ended = client.ssh(&[&host, "echo out; echo err >&2; exit 7"])?;
    ensure!(ended.status.code() == Some(7) && ended.stdout == b"out\n", "{}", shown(&ended));
    ensure!(ended.stderr.ends_with(b"err\n"), "{}", shown(&ended));
    let killed = client.ssh(&[&host, "kill -TERM $$"])?;
    ensure!(killed.status.code() == Some(255), "{}", shown(&killed));
    // The login environment, also without a terminal.
    let login = installation.api.sh(&id, "echo $PATH")?;
    ensure!(client.output(&[&host, "echo $PATH"])? == login, "another PATH");
    ensure!(client.output(&["-tt", &host, "tty"])?.starts_with("/dev/pts/"), "no terminal");
    // A stream of all bytes, there and back.
    let bytes: Vec<u8> =
        (0..2_000_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut child = client.program("ssh").args([&host, "cat"]).stdin(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("stdin")?;
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent));
    let echoed = finish(&mut child, TIMEOUT)?;
    writer.join().map_err(|_| anyhow::anyhow!("the writer"))??;
    ensure!(echoed.stdout == bytes, "{} of {} bytes came back", echoed.stdout.len(), bytes.len());
    // Every kind of key, and a session beside others on one connection.
    for kind in ["ecdsa", "rsa"] {
        let other = Client::registered(installation, kind, kind)?;
        ensure!(other.output(&[&host, "echo in"])? == "in", "{kind}");
    }
    let connection = client.share(&[], &host)?;
    let beside = (0..5).map(|number| {
        let arguments = connection.arguments(&[&host, "sleep 1; echo"]);
        client.program("ssh").args(arguments).arg(number.to_string()).spawn()
    });
    for (number, mut child) in beside.collect::<Result<Vec<_>, _>>()?.into_iter().enumerate() {
        let output = finish(&mut child, TIMEOUT)?;
        ensure!(output.stdout == format!("{number}\n").as_bytes(), "{}", shown(&output));
    }
    // Registered keys are in the workspace too, beside what its user has put there.
    let key = client.public_key()?;
    let is_synced = || {
        let keys = installation.api.sh(&id, "cat ~/.ssh/authorized_keys 2>/dev/null || true")?;
        Ok(keys.contains(&key).then_some(()))
    };
    eventually("the key is in the workspace", Duration::from_secs(20), is_synced)
}

fn ends_are_those_of_the_command(installation: &Installation) -> TestResult {
    let id = shared(installation)?;
    let client = Client::registered(installation, "ends", "ed25519")?;
    let host = target("shared", &id);
    let connection = client.share(&[], &host)?;
    let ssh = |line: &str| client.ssh(&connection.arguments(&[&host, line]));
    // The end of output before the status, and the status before output of what is left behind.
    let ended = ssh("exec >&- 2>&-; sleep 1; exit 9")?;
    ensure!(ended.status.code() == Some(9), "{}", shown(&ended));
    let ended = ssh("sleep 300 >/dev/null 2>&1 & echo left; exit 3")?;
    ensure!(ended.stdout == b"left\n" && ended.status.code() == Some(3), "{}", shown(&ended));
    // All output comes before the end, however fast that is.
    let ended = ssh("head -c 300000 /dev/zero; exit 4")?;
    ensure!(ended.stdout.len() == 300_000 && ended.status.code() == Some(4), "{}", ended.stdout.len());
    // The end of input is one of input alone.
    let mut reading = client.start(&connection.arguments(&[&host, "cat; sleep 1; echo after"]))?;
    reading.0.stdin.as_mut().context("stdin")?.write_all(b"before\n")?;
    let ended = reading.finish()?;
    ensure!(ended.stdout == b"before\nafter\n" && ended.status.success(), "{}", shown(&ended));
    // A quiet connection answers its client's probes.
    let probing = ["-vvv", "-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=60"];
    let quiet = client.ssh(&[&probing[..], &[&host, "sleep 4; echo kept"]].concat())?;
    let answers = String::from_utf8_lossy(&quiet.stderr).matches("receive packet: type 82").count();
    ensure!(quiet.stdout == b"kept\n" && answers >= 2, "{answers} answers: {}", shown(&quiet));
    // A client that is gone takes its command along.
    let mut left = client.start(&["-tt", &host, "echo on; exec -a left-alone sleep 1000"])?;
    left.read(&mut [0; 2])?;
    drop(left);
    eventually("the command of a client that is gone ends", Duration::from_secs(30), || {
        let count = installation.api.sh(&id, "pgrep -fc '^left-alone' || true")?;
        Ok((count == "0").then_some(()))
    })?;
    installation.api.sh(&id, "pkill -x sleep || true")?;
    remove_key(installation, "ends")
}

fn variables_pass_as_the_server_accepts_them(installation: &Installation) -> TestResult {
    let id = shared(installation)?;
    let client = Client::registered(installation, "variables", "ed25519")?;
    let host = target("shared", &id);
    let mut command = client.program("ssh");
    command.args(["-o", "SetEnv=LC_SET=\"a b\" OTHER=c", "-o", "SendEnv=LC_SENT OTHER_SENT", &host]);
    command.arg("echo \"$LC_SET|$LC_SENT|$OTHER|$OTHER_SENT|\"").env("LC_SENT", "d").env("OTHER_SENT", "e");
    let printed = succeed(&mut command)?;
    ensure!(printed == "a b|d|||\n", "{printed}");
    remove_key(installation, "variables")
}

fn keys_are_replaced_under_way(installation: &Installation) -> TestResult {
    const BYTES: u32 = 8_000_000;
    let id = shared(installation)?;
    let client = Client::registered(installation, "rekey", "ed25519")?;
    let host = target("shared", &id);
    let sent: Vec<u8> = (0..BYTES).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut child = client.start(&["-vv", "-o", "RekeyLimit=1M", &host, "cat"])?;
    let mut stdin = child.0.stdin.take().context("stdin")?;
    let wanted = sent.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent));
    let ended = child.finish()?;
    writer.join().map_err(|_| anyhow::anyhow!("the writer"))??;
    ensure!(ended.status.success() && ended.stdout == wanted, "{} bytes came back", ended.stdout.len());
    let exchanges = String::from_utf8_lossy(&ended.stderr).matches("SSH2_MSG_KEXINIT received").count();
    ensure!(exchanges > 8, "{exchanges} key exchanges");
    remove_key(installation, "rekey")
}

fn full_server_refuses_another_session_at_once(installation: &Installation) -> TestResult {
    let id = shared(installation)?;
    let client = Client::registered(installation, "full", "ed25519")?;
    let host = target("shared", &id);
    let set = |line: &str| {
        let file = "/etc/ssh/sshd_config.d/00-full.conf";
        installation.api.sudo(&id, &format!("{}; systemctl reload ssh", line.replace("FILE", file)))
    };
    set("echo MaxSessions 2 > FILE")?;
    let tested = || -> TestResult {
        let connection = client.share(&[], &host)?;
        let arguments = connection.arguments(&[&host, "echo in; cat"]);
        let mut held = [client.start(&arguments)?, client.start(&arguments)?];
        held.iter_mut().try_for_each(|session| session.read(&mut [0; 3]))?;
        let refused = client.ssh(&connection.arguments(&[&host, "true"]))?;
        let text = String::from_utf8_lossy(&refused.stderr);
        ensure!(text.contains("Session open refused by peer"), "{}", shown(&refused));
        // Those that are open go on, and make room.
        for session in &mut held {
            session.0.stdin.as_mut().context("stdin")?.write_all(b"on\n")?;
            let ended = session.finish()?;
            ensure!(ended.stdout == b"on\n" && ended.status.success(), "{}", shown(&ended));
        }
        ensure!(client.output(&connection.arguments(&[&host, "echo again"]))? == "again", "no room");
        Ok(())
    }();
    set("rm FILE")?;
    tested?;
    remove_key(installation, "full")
}

fn rig_reaches_workspaces_by_name(installation: &Installation) -> TestResult {
    let id = shared(installation)?;
    let client = Client::unregistered(installation, "rig", "ed25519")?;
    // As at home: the key that `ssh` takes by itself, and a configuration of one's own.
    let home = client.path("home");
    fs::create_dir_all(home.join(".ssh"))?;
    fs::copy(client.path("key"), home.join(".ssh/id_ed25519"))?;
    fs::copy(client.path("key.pub"), home.join(".ssh/id_ed25519.pub"))?;
    fs::write(home.join(".ssh/config"), "Host *\n    BatchMode yes\n")?;
    let at_home = |mut command: Command| -> Result<Output> { run(command.env("HOME", &home)) };
    let rig = |arguments: &[&str]| at_home(installation.rig(arguments));
    let added = rig(&["ssh-key", "add", "--name", "rig"])?;
    ensure!(added.status.success(), "{}", shown(&added));
    // `ssh` looks for the home in the user's entry, not in HOME.
    let identity = home.join(".ssh/id_ed25519").display().to_string();
    let ran = rig(&["ssh", "shared", "-i", &identity, "echo by rig; exit 3"])?;
    ensure!(ran.stdout == b"by rig\n" && ran.status.code() == Some(3), "{}", shown(&ran));
    let unknown = rig(&["ssh", "nonesuch"])?;
    ensure!(unknown.status.code() == Some(255), "{}", shown(&unknown));
    let info = rig(&["workspace", "ssh-info", "-n", "shared", "--output", "json"])?;
    let info: Value = serde_json::from_slice(&info.stdout)?;
    let user = target("shared", &id).replace("@127.0.0.1", "");
    for (field, wanted) in [
        ("event", json!("ssh_info")),
        ("workspace_id", json!(id)),
        ("user", json!(user)),
        ("host", json!("localhost")),
        ("port", json!(SSH_PORT)),
        ("ssh_target", json!(format!("{user}@localhost"))),
    ] {
        ensure!(info.get(field) == Some(&wanted), "{field}: {info}");
    }
    let written = rig(&["ssh", "config"])?;
    ensure!(written.status.success(), "{}", shown(&written));
    let mut by_name = Command::new("ssh");
    by_name.arg("-F").arg(home.join(".rigbox/ssh_config")).args(["-i", &identity, "-o", "BatchMode=yes"]);
    by_name.args(["shared.rigbox", "hostname"]);
    let named = at_home(by_name)?;
    ensure!(named.stdout == b"shared\n", "{}", shown(&named));
    let config = fs::read_to_string(home.join(".ssh/config"))?;
    ensure!(
        config.starts_with("Include ~/.rigbox/ssh_config\n") && config.ends_with("BatchMode yes\n"),
        "{config}"
    );
    remove_key(installation, "rig")
}
