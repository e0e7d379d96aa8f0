//! Forwarding of ports, of unix sockets and of the client's agent, in both directions, and hops through a workspace.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use rigbox_testkit::blocking::eventually;

use super::client::{Client, Running, TIMEOUT, free_port, remove_key, run, shown, target};
use crate::TestResult;
use crate::clients::shared;
use crate::harness::installation::{Installation, SSH_PORT};

tests![
    forwarding_works_in_both_directions,
    unix_sockets_are_forwarded_in_both_directions,
    agent_answers_many_requests_and_every_command,
    second_hop_is_reached_through_a_workspace,
];

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
    let _forwards = Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
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
    remove_key(installation, "forwards")
}

/// Asks a SOCKS server (RFC 1928) for a connection.
pub(super) fn socks(stream: &mut TcpStream, address: [u8; 4], port: u16) -> Result<()> {
    stream.write_all(&[5, 1, 0])?;
    let request = [&[5, 1, 0, 1][..], &address, &port.to_be_bytes()].concat();
    Ok(stream.write_all(&request)?)
}

fn unix_sockets_are_forwarded_in_both_directions(installation: &Installation) -> TestResult {
    let id = shared(installation)?;
    let client = Client::registered(installation, "sockets", "ed25519")?;
    // From here to a socket in the workspace, and from that one back to here.
    let (here, own) = (client.path("here"), client.path("own"));
    let there = "/home/developer/forwarded";
    let listener = UnixListener::bind(&own)?;
    let mut command = client.program("ssh");
    command.args(["-N", "-o", "ExitOnForwardFailure=yes", "-R", &format!("{there}:{}", own.display())]);
    command.args(["-L", &format!("{}:{there}", here.display()), &target("shared", &id)]);
    let _forwards = Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    let server = std::thread::spawn(move || -> Result<()> {
        // The first may be one whose client has found that the other forward is not there yet.
        for accepted in listener.incoming() {
            let mut accepted = accepted?;
            let mut text = String::new();
            accepted.read_to_string(&mut text)?;
            accepted.write_all(text.to_uppercase().as_bytes())?;
            if !text.is_empty() {
                break;
            }
        }
        Ok(())
    });
    let answer = eventually("the socket is forwarded", TIMEOUT, || {
        let Ok(mut stream) = UnixStream::connect(&here) else { return Ok(None) };
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut answer = String::new();
        let is_sent = stream.write_all(b"both ways").is_ok();
        stream.shutdown(std::net::Shutdown::Write)?;
        let is_read = is_sent && stream.read_to_string(&mut answer).is_ok();
        Ok((is_read && !answer.is_empty()).then_some(answer))
    })?;
    ensure!(answer == "BOTH WAYS", "{answer}");
    server.join().map_err(|_| anyhow::anyhow!("the server"))??;
    installation.api.sh(&id, &format!("rm {there}"))?;
    remove_key(installation, "sockets")
}

fn agent_answers_many_requests_and_every_command(installation: &Installation) -> TestResult {
    let id = shared(installation)?;
    let client = Client::registered(installation, "agent", "ed25519")?;
    let host = target("shared", &id);
    let agent = Agent::start(&client)?;
    let identity = format!("IdentityAgent={}", agent.socket.display());
    let connection = client.share(&["-A", "-o", &identity], &host)?;
    let line = "for i in 1 2 3; do ssh-add -l & done; wait; ssh-add -l; ssh-add -L | wc -l";
    for number in 1..=2 {
        let mut command = client.program("ssh");
        command.args(connection.arguments(&["-A", &host, line])).env("SSH_AUTH_SOCK", &agent.socket);
        let output = run(&mut command)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let is_whole = text.matches("SHA256:").count() == 4 && text.trim().ends_with('1');
        ensure!(is_whole, "command {number}: {}", shown(&output));
    }
    remove_key(installation, "agent")
}

fn second_hop_is_reached_through_a_workspace(installation: &Installation) -> TestResult {
    let id = shared(installation)?;
    let client = Client::registered(installation, "hops", "ed25519")?;
    let key = client.public_key()?;
    eventually("the key is in the workspace", Duration::from_secs(20), || {
        let keys = installation.api.sh(&id, "cat ~/.ssh/authorized_keys")?;
        Ok(keys.contains(&key).then_some(()))
    })?;
    let jump = format!("{}:{SSH_PORT}", target("shared", &id));
    let second = ["-p", "22", "developer@127.0.0.1", "echo $SSH_CONNECTION; exit 3"];
    let ended = client.ssh(&[&["-J", &jump][..], &second].concat())?;
    let text = String::from_utf8_lossy(&ended.stdout);
    let is_second = text.starts_with("127.0.0.1 ") && text.ends_with(" 127.0.0.1 22\n");
    ensure!(ended.status.code() == Some(3) && is_second, "{}", shown(&ended));
    remove_key(installation, "hops")
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
