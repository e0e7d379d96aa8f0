//! An installation of its own for the bench: real programs, its own folder and port, removed without a trace.

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

/// The image is copied to a new volume, and KVM is tried.
const READY_WITHIN: Duration = Duration::from_secs(180);
const END_WITHIN: Duration = Duration::from_secs(30);

pub(crate) struct Installation {
    dir: PathBuf,
    port: u16,
    mine: Mutex<Mine>,
}

/// What has to be removed.
struct Mine {
    dir: Option<TempDir>,
    supervisor: Option<Child>,
    others: Vec<Child>,
}

impl Installation {
    /// Makes the folder and the configuration; nothing runs yet.
    pub(crate) fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("rigbox-bench-").tempdir()?;
        // Free now; whoever takes it meanwhile makes the start fail.
        let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let (api, apps) = (free()?, free()?);
        let (port, apps_port) = (api.local_addr()?.port(), apps.local_addr()?.port());
        drop((api, apps));
        let text = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "state = {:?}\nrun = {:?}\n\n[api]\nlisten = \"127.0.0.1:{port}\"\n\n\
             [apps]\nlisten = \"127.0.0.1:{apps_port}\"\n\n[node]\nuplink = \"none\"\n",
            text("state"),
            text("run")
        );
        fs::write(dir.path().join("rigbox.toml"), config)?;
        let path = dir.path().to_owned();
        let mine = Mine { dir: Some(dir), supervisor: None, others: Vec::new() };
        Ok(Self { dir: path, port, mine: Mutex::new(mine) })
    }

    /// Starts Rigbox, makes its first user and returns the user's key.
    pub(crate) fn start(&self) -> Result<String> {
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut command = Command::new(program("rigboxd")?);
        command.args(["up", "--config"]).arg(self.config());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // A Ctrl-C is for the bench, which ends it in order; and the signals that the bench blocks are not blocked there.
        configure_child(&mut command, ChildSetup { new_session: true, ..Default::default() });
        let child = command.spawn().context("rigboxd")?;
        self.mine().supervisor = Some(child);
        let deadline = Instant::now() + READY_WITHIN;
        while !self.is_ready() {
            anyhow::ensure!(Instant::now() < deadline, "Rigbox did not become ready");
            let ended = self.mine().supervisor.as_mut().map(Child::try_wait).transpose()?.flatten();
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
        let answer =
            Connection::open(self.port, "").and_then(|mut api| Ok(api.send("GET", "/readyz", b"")?.0));
        answer.is_ok_and(|status| status == 200)
    }

    /// A folder for the bench's own files.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The folder that images and disks lie in.
    pub(crate) fn volume(&self) -> Result<PathBuf> {
        let plain = self.dir.join("state/node/volume");
        if !self.dir.join("state/node/volume.xfs").exists() {
            return Ok(plain);
        }
        let run = fs::read_dir(self.dir.join("run"))?.next().context("the run folder is empty")??;
        Ok(run.path().join("node/own/volume"))
    }

    /// Pid of the supervisor.
    pub(crate) fn supervisor(&self) -> Result<u32> {
        Ok(self.mine().supervisor.as_ref().context("Rigbox does not run")?.id())
    }

    /// Sees to the end of a process that the bench has started.
    pub(crate) fn adopt(&self, child: Child) -> u32 {
        let pid = child.id();
        self.mine().others.push(child);
        pid
    }

    /// Ends a process of [`Self::adopt`].
    pub(crate) fn end(&self, pid: u32) {
        let mut mine = self.mine();
        if let Some(at) = mine.others.iter().position(|child| child.id() == pid) {
            kill(&mut mine.others.swap_remove(at));
        }
    }

    /// The last lines that Rigbox logged.
    pub(crate) fn end_of_log(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let from = log.lines().count().saturating_sub(20);
        let lines: Vec<&str> = log.lines().skip(from).collect();
        format!("the bench failed; the end of Rigbox's log:\n{}", lines.join("\n"))
    }

    /// Ends everything and removes it. Says what could not be; there is nobody to hand an error to.
    pub(crate) fn clean_up(&self) {
        let mut mine = self.mine();
        mine.others.iter_mut().for_each(kill);
        mine.others.clear();
        if let Some(mut supervisor) = mine.supervisor.take() {
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
                let _ = mine.dir.take().map(TempDir::keep);
            }
        }
        if let Some(Err(error)) = mine.dir.take().map(TempDir::close) {
            eprintln!("{} could not be removed: {error}", self.dir.display());
        }
    }

    fn mine(&self) -> MutexGuard<'_, Mine> {
        self.mine.lock().unwrap_or_else(PoisonError::into_inner)
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
    let deadline = Instant::now() + END_WITHIN;
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() > deadline {
            return kill(child);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
