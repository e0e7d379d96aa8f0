//! OpenSSH's programs with a key and a configuration of a test's own, and what tests of any client need.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rigbox_testkit::blocking::eventually;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use crate::TestResult;
use crate::harness::installation::{Installation, SSH_PORT};

/// Limit of one client under emulation.
pub(super) const TIMEOUT: Duration = Duration::from_secs(180);

/// OpenSSH client with a key and a configuration of its own.
pub(super) struct Client {
    pub(super) folder: PathBuf,
}

impl Client {
    /// Makes a key and registers it by the API. `kind` is a type of `ssh-keygen`.
    pub(super) fn registered(installation: &Installation, name: &str, kind: &str) -> Result<Self> {
        let client = Self::unregistered(installation, name, kind)?;
        let key = json!({"name": name, "public_key": client.public_key()?});
        installation.api.post("/ssh-keys", &key)?.expect(201)?;
        Ok(client)
    }

    pub(super) fn unregistered(installation: &Installation, name: &str, kind: &str) -> Result<Self> {
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

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(super) fn public_key(&self) -> Result<String> {
        Ok(fs::read_to_string(self.path("key.pub"))?.trim().to_owned())
    }

    /// Returns a command of OpenSSH with this client's configuration.
    pub(super) fn program(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-F").arg(self.path("config"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs `ssh` to the end.
    pub(super) fn ssh(&self, arguments: &[&str]) -> Result<Output> {
        finish(&mut self.program("ssh").args(arguments).spawn()?, TIMEOUT)
    }

    /// Has `rig ssh config` write a configuration, with these options.
    pub(super) fn write_config(&self, installation: &Installation, options: &[&str]) -> TestResult {
        fs::create_dir_all(self.path("home"))?;
        let mut rig = installation.rig(&[&["ssh", "config"], options].concat());
        let output = rig.env("HOME", self.path("home")).output()?;
        ensure!(output.status.success(), "{}", shown(&output));
        Ok(())
    }

    /// Runs `ssh` with the configuration that [`Self::write_config`] has written. `rig` in it has the API key `key`.
    pub(super) fn ssh_by_config(
        &self,
        installation: &Installation,
        key: &str,
        arguments: &[&str],
    ) -> Result<Output> {
        let mut command = Command::new("ssh");
        command.arg("-F").arg(self.path("home/.rigbox/ssh_config")).arg("-i").arg(self.path("key"));
        command.args(["-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"]).args(arguments);
        command.env("RIG_API_URL", &installation.api.url).env("RIG_API_KEY", key);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        finish(&mut command.spawn()?, TIMEOUT)
    }

    /// Starts a command whose input and output are the test's.
    pub(super) fn start(&self, arguments: &[&str]) -> Result<Running> {
        Ok(Running(self.program("ssh").args(arguments).stdin(Stdio::piped()).spawn()?))
    }

    /// Opens a connection that other commands share, and returns it with their options.
    pub(super) fn share(&self, options: &[&str], host: &str) -> Result<Shared> {
        let path = format!("ControlPath={}", self.path("control").display());
        let master = ["-N", "-o", "ControlMaster=yes", "-o", &path];
        let mut child = self.program("ssh").args(master).args(options).arg(host).spawn()?;
        let socket = self.path("control");
        let opened = eventually("the connection is open", TIMEOUT, || {
            ensure!(child.try_wait()?.is_none(), "the connection has ended");
            Ok(socket.exists().then_some(()))
        });
        opened?;
        // Without it, a command would connect by itself where the shared connection is of no use.
        let fallback = "ProxyCommand=false".to_owned();
        Ok(Shared { _master: Running(child), options: ["-o".into(), path, "-o".into(), fallback] })
    }

    /// Runs a command that has to succeed, and returns its output.
    pub(super) fn output(&self, arguments: &[&str]) -> Result<String> {
        let output = self.ssh(arguments)?;
        ensure!(output.status.success(), "{arguments:?}: {}", shown(&output));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }
}

/// Connection for several commands.
pub(super) struct Shared {
    _master: Running,
    options: [String; 4],
}

impl Shared {
    /// Returns arguments for a command on this connection.
    pub(super) fn arguments<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        self.options.iter().map(String::as_str).chain(more.iter().copied()).collect()
    }
}

impl Running {
    /// Reads what comes first, exactly as many bytes as fit.
    pub(super) fn read(&mut self, bytes: &mut [u8]) -> Result<()> {
        let stdout = self.0.stdout.as_mut().context("stdout")?;
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let mut fds = [PollFd::new(stdout, PollFlags::IN)];
            let timeout = Timespec { tv_sec: TIMEOUT.as_secs().cast_signed(), tv_nsec: 0 };
            ensure!(poll(&mut fds, Some(&timeout))? > 0, "no output");
            match stdout.read(rest)? {
                0 => anyhow::bail!("it ended: {}", shown(&self.kill()?)),
                count => filled += count,
            }
        }
        Ok(())
    }

    /// Waits for its end. Its input ends first.
    pub(super) fn finish(&mut self) -> Result<Output> {
        drop(self.0.stdin.take());
        finish(&mut self.0, TIMEOUT)
    }

    fn kill(&mut self) -> Result<Output> {
        // It may have ended already.
        let _ = self.0.kill();
        self.finish()
    }
}

/// Runs any program to the end.
pub(super) fn run(command: &mut Command) -> Result<Output> {
    let name = format!("{:?}", command.get_program());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    finish(&mut command.spawn().context(name)?, TIMEOUT)
}

/// Runs any program, which has to succeed, and returns its output.
pub(super) fn succeed(command: &mut Command) -> Result<String> {
    let output = run(command)?;
    ensure!(output.status.success(), "{command:?}: {}", shown(&output));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Waits for a process to end.
pub(super) fn finish(child: &mut Child, within: Duration) -> Result<Output> {
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

pub(super) fn shown(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{:?}: {}{}", output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Returns where a workspace is reached: user and host.
pub(super) fn target(name: &str, id: &str) -> String {
    format!("{name}-{}@127.0.0.1", id.trim_start_matches("ws-"))
}

/// Process that is killed when it is dropped.
pub(super) struct Running(pub(super) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Returns the hashes of a folder's files, as `sha256sum` prints them.
pub(super) fn hashes(folder: &Path) -> Result<String> {
    let line = "find . -type f -exec sha256sum {} + | sort -k2";
    let output = Command::new("sh").args(["-c", line]).current_dir(folder).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

pub(super) fn remove_key(installation: &Installation, name: &str) -> TestResult {
    let listed = installation.api.get("/ssh-keys")?.expect(200)?;
    let keys = listed.get("ssh_keys").and_then(Value::as_array).context("no list")?;
    let key =
        keys.iter().find(|key| key.get("name").is_some_and(|own| own == name)).context("no such key")?;
    let id = key.get("id").and_then(Value::as_str).context("no id")?;
    installation.api.delete(&format!("/ssh-keys/{id}"))?.expect(200).map(drop)
}
