//! Temporary installation for a benchmark: real programs, with a folder and a port of its own.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rigbox_sys::spawn::{ChildSetup, configure_child};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::http::Connection;

/// Includes copying the image to a new volume and probing KVM.
const READY_TIMEOUT: Duration = Duration::from_secs(180);
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Returns the port that a listener was given.
fn port_of(listener: &TcpListener) -> u16 {
    listener.local_addr().map_or(0, |address| address.port())
}

pub(crate) struct Installation {
    dir: PathBuf,
    port: u16,
    owned: Mutex<Owned>,
}

/// Resources to remove.
struct Owned {
    dir: Option<TempDir>,
    supervisor: Option<Child>,
    others: Vec<Child>,
}

impl Installation {
    /// Creates the folder and the configuration without starting anything.
    pub(crate) fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("rigbox-bench-").tempdir()?;
        // Another process may take a port until the start, which then fails.
        let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let listeners = [free()?, free()?, free()?];
        let [port, apps_port, ssh_port] =
            [0, 1, 2].map(|number: usize| listeners.get(number).map_or(0, port_of));
        drop(listeners);
        let text = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "state = {:?}\nrun = {:?}\n\n[api]\nlisten = \"127.0.0.1:{port}\"\n\n\
             [apps]\nlisten = \"127.0.0.1:{apps_port}\"\n\n[ssh]\nlisten = \"127.0.0.1:{ssh_port}\"\n\n[node]\nuplink = \"none\"\n\
             allow_emulation = true\n",
            text("state"),
            text("run")
        );
        fs::write(dir.path().join("rigbox.toml"), config)?;
        let path = dir.path().to_owned();
        let owned = Owned { dir: Some(dir), supervisor: None, others: Vec::new() };
        Ok(Self { dir: path, port, owned: Mutex::new(owned) })
    }

    /// Starts Rigbox, creates the administrator and returns their API key.
    pub(crate) fn start(&self) -> Result<String> {
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut command = Command::new(program("rigboxd")?);
        command.args(["up", "--config"]).arg(self.config());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // Ctrl-C is for the benchmark, which stops Rigbox itself; signals that it blocks are not blocked there.
        configure_child(&mut command, ChildSetup { new_session: true, ..Default::default() });
        let child = command.spawn().context("rigboxd")?;
        self.owned().supervisor = Some(child);
        let deadline = Instant::now() + READY_TIMEOUT;
        while !self.is_ready() {
            anyhow::ensure!(Instant::now() < deadline, "Rigbox is not ready in time");
            let ended = self.owned().supervisor.as_mut().map(Child::try_wait).transpose()?.flatten();
            anyhow::ensure!(ended.is_none(), "rigboxd ended: {ended:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
        let output = Command::new(program("rigboxd")?)
            .args(["bootstrap", "--email", "bench@rigbox.invalid", "--config"])
            .arg(self.config())
            .stderr(Stdio::inherit())
            .output()?;
        anyhow::ensure!(output.status.success(), "rigboxd bootstrap ended with {}", output.status);
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    fn is_ready(&self) -> bool {
        let response =
            Connection::open(self.port, "").and_then(|mut api| Ok(api.send("GET", "/readyz", b"")?.0));
        response.is_ok_and(|status| status == 200)
    }

    /// Returns the folder for the benchmark's files.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Returns the folder of images and disks.
    pub(crate) fn volume(&self) -> Result<PathBuf> {
        let plain = self.dir.join("state/node/volume");
        if !self.dir.join("state/node/volume.xfs").exists() {
            return Ok(plain);
        }
        let run = fs::read_dir(self.dir.join("run"))?.next().context("the run folder is empty")??;
        Ok(run.path().join("node/own/volume"))
    }

    /// Returns the pid of the supervisor.
    pub(crate) fn supervisor(&self) -> Result<u32> {
        Ok(self.owned().supervisor.as_ref().context("Rigbox is not running")?.id())
    }

    /// Takes over a child process, which ends with the installation.
    pub(crate) fn adopt(&self, child: Child) -> u32 {
        let pid = child.id();
        self.owned().others.push(child);
        pid
    }

    /// Ends a process that was adopted.
    pub(crate) fn end(&self, pid: u32) {
        let mut owned = self.owned();
        if let Some(at) = owned.others.iter().position(|child| child.id() == pid) {
            kill(&mut owned.others.swap_remove(at));
        }
    }

    /// Returns the time of day of the first line about `what` of a workspace in Rigbox's log, in seconds (UTC).
    pub(crate) fn logged_at(&self, what: &str, workspace: &str) -> Result<f64> {
        let log = fs::read_to_string(self.log())?;
        let is_it = |line: &&str| line.contains(what) && line.contains(workspace);
        let line =
            log.lines().find(is_it).with_context(|| format!("no {what:?} of {workspace} in the log"))?;
        // 2026-11-28T16:12:24.110849Z
        let time = line.split_once('T').and_then(|(_, rest)| rest.split_once('Z'));
        let (time, _) = time.with_context(|| format!("no time in {line:?}"))?;
        time.split(':').try_fold(0.0, |seconds, part| Ok(seconds * 60.0 + part.parse::<f64>()?))
    }

    /// Returns the end of Rigbox's log.
    pub(crate) fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let from = log.lines().count().saturating_sub(20);
        let lines: Vec<&str> = log.lines().skip(from).collect();
        format!("the benchmark failed; end of Rigbox's log:\n{}", lines.join("\n"))
    }

    /// Stops and removes everything, and prints failures.
    pub(crate) fn clean_up(&self) {
        let mut owned = self.owned();
        owned.others.iter_mut().for_each(kill);
        owned.others.clear();
        if let Some(mut supervisor) = owned.supervisor.take() {
            end_in_order(&mut supervisor);
            let purged = program("rigboxd").and_then(|program| {
                Ok(Command::new(program)
                    .args(["purge", "--everything", "--config"])
                    .arg(self.config())
                    .status()?)
            });
            if !purged.as_ref().is_ok_and(std::process::ExitStatus::success) {
                // The folder holds what `purge` needs for another try.
                eprintln!("{} could not be purged: {purged:?}", self.dir.display());
                let _ = owned.dir.take().map(TempDir::keep);
            }
        }
        if let Some(Err(error)) = owned.dir.take().map(TempDir::close) {
            eprintln!("{} could not be removed: {error}", self.dir.display());
        }
    }

    fn owned(&self) -> MutexGuard<'_, Owned> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn config(&self) -> PathBuf {
        self.dir.join("rigbox.toml")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("rigboxd.log")
    }
}

/// A program that was built beside this one.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    anyhow::ensure!(path.exists(), "{} is missing: `cargo xtask bench` builds it", path.display());
    Ok(path)
}

fn kill(child: &mut Child) {
    // One that has ended already is fine.
    let _ = child.kill();
    let _ = child.wait();
}

fn end_in_order(child: &mut Child) {
    let pid = Pid::from_child(child);
    let _ = kill_process(pid, Signal::TERM);
    let deadline = Instant::now() + STOP_TIMEOUT;
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() > deadline {
            return kill(child);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
