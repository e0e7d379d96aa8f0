//! OpenSSH's programs and others as clients of the SSH gateway: what works with a plain server works through it, and nothing else gets in.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rigbox_testkit::blocking::eventually;
use serde_json::{Value, json};

use super::shared;
use crate::TestResult;
use crate::harness::api::Api;
use crate::harness::console::Console;
use crate::harness::installation::{Installation, SSH_PORT};
use crate::harness::roles;
use crate::security::gateway_dial::{aim, boot_of, connects};

tests![
    commands_run_as_with_a_plain_server,
    rig_reaches_workspaces_by_name,
    files_are_copied_whole_both_ways,
    dropbear_and_putty_log_in,
    forwarding_works_in_both_directions,
    strangers_are_refused_in_the_same_words,
    session_ends_with_its_key_and_is_recorded,
    stopped_workspace_is_named_to_its_owner,
    ssh_gateway_dials_the_ssh_server_alone,
];

/// Limit of one client under emulation.
const TIMEOUT: Duration = Duration::from_secs(90);
/// Time in which a revoked session has to end: a second, and what a loaded machine takes.
const REVOCATION_TIMEOUT: Duration = Duration::from_secs(5);

/// OpenSSH client with a key and a configuration of its own.
struct Client {
    folder: PathBuf,
}

impl Client {
    /// Makes a key and registers it by the API. `kind` is a type of `ssh-keygen`.
    fn registered(installation: &Installation, name: &str, kind: &str) -> Result<Self> {
        let client = Self::unregistered(installation, name, kind)?;
        let key = json!({"name": name, "public_key": client.public_key()?});
        installation.api.post("/ssh-keys", &key)?.expect(201)?;
        Ok(client)
    }

    fn unregistered(installation: &Installation, name: &str, kind: &str) -> Result<Self> {
        let folder = installation.scratch.join(format!("ssh-{name}"));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder)?;
        let client = Self { folder };
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", kind, "-N", "", "-C", name, "-f"]).arg(client.path("key"));
        ensure!(keygen.status()?.success(), "ssh-keygen");
        let options = [
            "Host *".to_owned(),
            format!("Port {SSH_PORT}"),
            format!("IdentityFile {}", client.path("key").display()),
            format!("UserKnownHostsFile {}", client.path("known_hosts").display()),
            "IdentitiesOnly yes\nBatchMode yes\nStrictHostKeyChecking accept-new".to_owned(),
        ];
        fs::write(client.path("config"), options.join("\n") + "\n")?;
        Ok(client)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn public_key(&self) -> Result<String> {
        Ok(fs::read_to_string(self.path("key.pub"))?.trim().to_owned())
    }

    /// Returns a command of OpenSSH with this client's configuration.
    fn program(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-F").arg(self.path("config"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs `ssh` to the end.
    fn ssh(&self, arguments: &[&str]) -> Result<Output> {
        finish(self.program("ssh").args(arguments).spawn()?, TIMEOUT)
    }

    /// Runs a command that has to succeed, and returns its output.
    fn output(&self, arguments: &[&str]) -> Result<String> {
        let output = self.ssh(arguments)?;
        ensure!(output.status.success(), "{arguments:?}: {}", shown(&output));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }
}

/// Waits for a process to end.
fn finish(mut child: Child, within: Duration) -> Result<Output> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let read = |stream: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut stream) = stream {
                // What was read until a failure counts.
                let _ = stream.read_to_end(&mut bytes);
            }
            bytes
        })
    };
    let stdout = read(stdout.map(|stream| Box::new(stream) as Box<dyn Read + Send>));
    let stderr = read(stderr.map(|stream| Box::new(stream) as Box<dyn Read + Send>));
    let Ok(status) = eventually("the client ends", within, || Ok(child.try_wait()?)) else {
        child.kill()?;
        child.wait()?;
        let text = stderr.join().unwrap_or_default();
        anyhow::bail!("the client does not end: {}", String::from_utf8_lossy(&text));
    };
    Ok(Output {
        status,
        stdout: stdout.join().unwrap_or_default(),
        stderr: stderr.join().unwrap_or_default(),
    })
}

fn shown(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{:?}: {}{}", output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Returns where a workspace is reached: user and host.
fn target(name: &str, id: &str) -> String {
    format!("{name}-{}@127.0.0.1", id.trim_start_matches("ws-"))
}

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
    let echoed = finish(child, TIMEOUT)?;
    writer.join().map_err(|_| anyhow::anyhow!("the writer"))??;
    ensure!(echoed.stdout == bytes, "{} of {} bytes came back", echoed.stdout.len(), bytes.len());
    // Every kind of key, and a session beside others on one connection.
    for kind in ["ecdsa", "rsa"] {
        let other = Client::registered(installation, kind, kind)?;
        ensure!(other.output(&[&host, "echo in"])? == "in", "{kind}");
    }
    let control = client.path("control");
    let shared_connection = format!("ControlPath={}", control.display());
    client.output(&[
        "-o",
        &shared_connection,
        "-o",
        "ControlMaster=yes",
        "-o",
        "ControlPersist=60",
        &host,
        "true",
    ])?;
    let beside = (0..5).map(|number| {
        let arguments = ["-o", &shared_connection, &host, "sleep 1; echo"];
        client.program("ssh").args(arguments).arg(number.to_string()).spawn()
    });
    for (number, child) in beside.collect::<Result<Vec<_>, _>>()?.into_iter().enumerate() {
        let output = finish(child, TIMEOUT)?;
        ensure!(output.stdout == format!("{number}\n").as_bytes(), "{}", shown(&output));
    }
    client.ssh(&["-o", &shared_connection, "-O", "exit", &host])?;
    // Registered keys are in the workspace too, beside what its user has put there.
    let key = client.public_key()?;
    let is_synced = || {
        let keys = installation.api.sh(&id, "cat ~/.ssh/authorized_keys 2>/dev/null || true")?;
        Ok(keys.contains(&key).then_some(()))
    };
    eventually("the key is in the workspace", Duration::from_secs(20), is_synced)
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
    let at_home = |mut command: Command| -> Result<Output> {
        command.env("HOME", &home).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        finish(command.spawn()?, TIMEOUT)
    };
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

fn files_are_copied_whole_both_ways(installation: &Installation) -> TestResult {
    let id = shared(installation)?;
    let client = Client::registered(installation, "files", "ed25519")?;
    let host = target("shared", &id);
    let tree = client.path("tree");
    fs::create_dir(&tree)?;
    for number in 0..40_u32 {
        let bytes: Vec<u8> = (0..number * 3_000).map(|at| (at.wrapping_mul(number + 7) >> 3) as u8).collect();
        fs::write(tree.join(format!("file {number}")), bytes)?;
    }
    let wanted = hashes(&tree)?;
    let remote_hashes = |folder: &str| {
        client.output(&[&host, &format!("cd {folder} && find . -type f -exec sha256sum {{}} + | sort -k2")])
    };
    let copy = |program: &str, arguments: &[&str]| -> TestResult {
        let output = finish(client.program(program).args(arguments).spawn()?, TIMEOUT)?;
        ensure!(output.status.success(), "{program} {arguments:?}: {}", shown(&output));
        Ok(())
    };
    let local = tree.display().to_string();
    for (name, protocol) in [("scp-new", "-s"), ("scp-old", "-O")] {
        copy("scp", &["-q", "-r", protocol, &local, &format!("{host}:{name}")])?;
        ensure!(remote_hashes(name)? == wanted, "{name}: other files arrived");
        let back = client.path(name).display().to_string();
        copy("scp", &["-q", "-r", protocol, &format!("{host}:{name}"), &back])?;
        ensure!(hashes(Path::new(&back))? == wanted, "{name}: other files came back");
    }
    let batch = client.path("batch");
    fs::write(&batch, format!("mkdir sftp\nput -R \"{local}\" sftp/tree\nbye\n"))?;
    copy("sftp", &["-q", "-b", &batch.display().to_string(), &host])?;
    ensure!(remote_hashes("sftp/tree")? == wanted, "sftp: other files arrived");
    let rsync = |from: &str, to: &str| -> TestResult {
        let mut command = Command::new("rsync");
        command.args([
            "-a",
            "--checksum",
            "-e",
            &format!("ssh -F {}", client.path("config").display()),
            from,
            to,
        ]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let output = finish(child, TIMEOUT)?;
        ensure!(output.status.success(), "rsync: {}", shown(&output));
        Ok(())
    };
    rsync(&format!("{local}/"), &format!("{host}:rsync"))?;
    ensure!(remote_hashes("rsync")? == wanted, "rsync: other files arrived");
    let back = client.path("rsync-back").display().to_string();
    rsync(&format!("{host}:rsync/"), &back)?;
    ensure!(hashes(Path::new(&back))? == wanted, "rsync: other files came back");
    Ok(())
}

fn dropbear_and_putty_log_in(installation: &Installation) -> TestResult {
    let id = shared(installation)?;
    let (user, port) = (target("shared", &id), SSH_PORT.to_string());
    let folder = Client::unregistered(installation, "others", "ed25519")?.folder;
    let path = |name: &str| folder.join(name).display().to_string();
    let run = |program: &str, arguments: &[&str]| -> Result<Output> {
        let mut command = Command::new(program);
        command.args(arguments).env("HOME", &folder).stdin(Stdio::null());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        finish(child.with_context(|| program.to_owned())?, TIMEOUT)
    };
    let register = |name: &str, printed: &Output| -> TestResult {
        let text = String::from_utf8_lossy(&printed.stdout);
        let line = text.lines().find(|line| line.starts_with("ssh-")).with_context(|| shown(printed))?;
        let key = json!({"name": name, "public_key": line});
        installation.api.post("/ssh-keys", &key)?.expect(201).map(drop)
    };
    let dropbear = path("dropbear");
    register("dropbear", &run("dropbearkey", &["-t", "ed25519", "-f", &dropbear])?)?;
    let ran = run("dbclient", &["-y", "-T", "-i", &dropbear, "-p", &port, &user, "echo dropbear; exit 4"])?;
    ensure!(ran.stdout == b"dropbear\n" && ran.status.code() == Some(4), "{}", shown(&ran));

    let putty = path("key.ppk");
    fs::write(path("passphrase"), "")?;
    let made =
        run("puttygen", &["-q", "-t", "ed25519", "-o", &putty, "--new-passphrase", &path("passphrase")])?;
    ensure!(made.status.success(), "{}", shown(&made));
    register("putty", &run("puttygen", &["-O", "public-openssh", &putty])?)?;
    // PuTTY takes no host key unseen.
    let scanned = run("ssh-keyscan", &["-p", &port, "127.0.0.1"])?;
    fs::write(path("scanned"), &scanned.stdout)?;
    let listed = run("ssh-keygen", &["-l", "-f", &path("scanned")])?;
    let listed = String::from_utf8(listed.stdout)?;
    let fingerprint = listed.split_whitespace().nth(1).context("no fingerprint")?;
    let options = ["-batch", "-P", &port, "-i", &putty, "-hostkey", fingerprint];
    let ran = run("plink", &[&options[..], &["-T", &user, "echo putty; exit 5"]].concat())?;
    ensure!(ran.stdout == b"putty\n" && ran.status.code() == Some(5), "{}", shown(&ran));
    fs::write(path("batch"), format!("put {} from-psftp\nls\nquit\n", path("passphrase")))?;
    let ran = run("psftp", &[&options[..], &["-b", &path("batch"), &user]].concat())?;
    let text = String::from_utf8_lossy(&ran.stdout);
    ensure!(ran.status.success() && text.contains("from-psftp"), "{}", shown(&ran));
    ["dropbear", "putty"].iter().try_for_each(|name| remove_key(installation, name))
}

/// Returns the hashes of a folder's files, as `sha256sum` prints them.
fn hashes(folder: &Path) -> Result<String> {
    let line = "find . -type f -exec sha256sum {} + | sort -k2";
    let output = Command::new("sh").args(["-c", line]).current_dir(folder).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// `ssh -N` with forwards, ended when dropped.
struct Forwards(Child);

impl Drop for Forwards {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn forwarding_works_in_both_directions(installation: &Installation) -> TestResult {
    let id = shared(installation)?;
    let client = Client::registered(installation, "forwards", "ed25519")?;
    let host = target("shared", &id);
    // A server that speaks first, as many do.
    let greeter = "import socket\ns = socket.create_server(('127.0.0.1', 4711))\nwhile True:\n    c, _ = s.accept()\n    c.sendall(b'hello first\\n')\n    c.sendall(c.recv(100).upper())\n    c.close()\n";
    let path = client.path("greeter.py");
    fs::write(&path, greeter)?;
    let copied = installation.rig(&["cp", &path.display().to_string(), "shared:greeter.py"]).output()?;
    ensure!(copied.status.success(), "{}", shown(&copied));
    installation.api.sh(&id, "setsid python3 greeter.py >/dev/null 2>&1 </dev/null &")?;
    let own = TcpListener::bind("127.0.0.1:0")?;
    let (here, dynamic) = (free_port()?, free_port()?);
    let own_port = own.local_addr()?.port();
    let mut command = client.program("ssh");
    command.args(["-N", "-o", "ExitOnForwardFailure=yes", "-L", &format!("{here}:127.0.0.1:4711")]);
    command.args(["-D", &dynamic.to_string(), "-R", &format!("4712:127.0.0.1:{own_port}"), &host]);
    let _forwards = Forwards(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    let greeted = |port: u16| -> Result<Option<String>> {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return Ok(None) };
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut greeting = [0; 12];
        if stream.read_exact(&mut greeting).is_err() {
            return Ok(None);
        }
        stream.write_all(b"and you")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(Some(format!("{}{answer}", String::from_utf8_lossy(&greeting))))
    };
    let text = eventually("-L", TIMEOUT, || greeted(here))?;
    ensure!(text == "hello first\nAND YOU", "-L: {text}");
    // A target that does not answer holds up no other.
    let mut dead = TcpStream::connect(("127.0.0.1", dynamic))?;
    socks(&mut dead, [192, 0, 2, 1], 9)?;
    let mut alive = TcpStream::connect(("127.0.0.1", dynamic))?;
    alive.set_read_timeout(Some(Duration::from_secs(20)))?;
    socks(&mut alive, [127, 0, 0, 1], 4711)?;
    let mut reply = [0; 2 + 10 + 12];
    alive.read_exact(&mut reply)?;
    ensure!(reply.ends_with(b"hello first\n"), "-D: {reply:?}");
    // From the workspace to this machine.
    let sender = std::thread::spawn({
        let api = installation.api.with_key(&installation.key)?;
        move || api.sh(&id, "exec 3<>/dev/tcp/127.0.0.1/4712; echo from the workspace >&3; cat <&3")
    });
    let (mut accepted, _) = own.accept()?;
    accepted.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut line = [0; 19];
    accepted.read_exact(&mut line)?;
    accepted.write_all(b"back")?;
    drop(accepted);
    let answer = sender.join().map_err(|_| anyhow::anyhow!("the sender"))??;
    ensure!(&line == b"from the workspace\n" && answer == "back", "-R: {answer}");
    // The client's agent, in several requests.
    let agent = Agent::start(&client)?;
    let mut command = client.program("ssh");
    command
        .args(["-A", &host, "ssh-add -l; ssh-add -l; ssh-add -L | wc -l"])
        .env("SSH_AUTH_SOCK", &agent.socket);
    let output = finish(command.spawn()?, TIMEOUT)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(text.matches("forwards").count() == 2 && text.trim().ends_with('1'), "{}", shown(&output));
    Ok(())
}

/// Asks a SOCKS server (RFC 1928) for a connection.
fn socks(stream: &mut TcpStream, address: [u8; 4], port: u16) -> Result<()> {
    stream.write_all(&[5, 1, 0])?;
    let request = [&[5, 1, 0, 1][..], &address, &port.to_be_bytes()].concat();
    Ok(stream.write_all(&request)?)
}

/// OpenSSH's agent with a client's key.
struct Agent {
    child: Child,
    socket: PathBuf,
}

impl Agent {
    fn start(client: &Client) -> Result<Self> {
        let socket = client.path("agent");
        let child =
            Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn()?;
        let agent = Self { child, socket };
        eventually("the agent has the key", Duration::from_secs(10), || {
            let mut add = Command::new("ssh-add");
            add.arg("-q").arg(client.path("key")).env("SSH_AUTH_SOCK", &agent.socket).stderr(Stdio::null());
            Ok(add.status()?.success().then_some(()))
        })?;
        Ok(agent)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn strangers_are_refused_in_the_same_words(installation: &Installation) -> TestResult {
    let id = shared(installation)?;
    let host = target("shared", &id);
    let known = Client::registered(installation, "known", "ed25519")?;
    let stranger = Client::unregistered(installation, "stranger", "ed25519")?;
    let other = other_user(installation)?;
    let theirs = Client::unregistered(installation, "theirs", "ed25519")?;
    other.post("/ssh-keys", &json!({"name": "theirs", "public_key": theirs.public_key()?}))?.expect(201)?;
    let no_key = ["-o", "PubkeyAuthentication=no"];
    let password = ["-o", "PreferredAuthentications=password,keyboard-interactive", "-o", "BatchMode=no"];
    let refused = [
        known.ssh(&["nobody-aaaaaaaa@127.0.0.1", "true"])?,
        known.ssh(&["root@127.0.0.1", "true"])?,
        stranger.ssh(&[&host, "true"])?,
        stranger.ssh(&["nobody-aaaaaaaa@127.0.0.1", "true"])?,
        theirs.ssh(&[&host, "true"])?,
        known.ssh(&[&no_key[..], &[&host, "true"]].concat())?,
        known.ssh(&[&password[..], &[&host, "true"]].concat())?,
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
    // A deleted key is one of a stranger.
    let deleted = Client::registered(installation, "deleted", "ed25519")?;
    remove_key(installation, "deleted")?;
    let output = deleted.ssh(&[&host, "true"])?;
    ensure!(output.status.code() == Some(255), "{}", shown(&output));
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

fn remove_key(installation: &Installation, name: &str) -> TestResult {
    let listed = installation.api.get("/ssh-keys")?.expect(200)?;
    let keys = listed.get("ssh_keys").and_then(Value::as_array).context("no list")?;
    let key =
        keys.iter().find(|key| key.get("name").is_some_and(|own| own == name)).context("no such key")?;
    let id = key.get("id").and_then(Value::as_str).context("no id")?;
    installation.api.delete(&format!("/ssh-keys/{id}"))?.expect(200).map(drop)
}

fn session_ends_with_its_key_and_is_recorded(installation: &Installation) -> TestResult {
    let id = shared(installation)?;
    let client = Client::registered(installation, "revoked", "ed25519")?;
    let mut command = client.program("ssh");
    command.args([target("shared", &id).as_str(), "echo begun; sleep 1000"]);
    let mut child = command.spawn()?;
    let mut begun = [0; 6];
    child.stdout.as_mut().context("stdout")?.read_exact(&mut begun)?;
    remove_key(installation, "revoked")?;
    let since = Instant::now();
    let output = finish(child, REVOCATION_TIMEOUT)?;
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
