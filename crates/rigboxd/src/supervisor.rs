//! Supervisor: runs one process per role and restarts those that end. VMs outlive it. When it is killed its roles end with it, and the
//! next supervisor recovers everything from the journal.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::backup::restore;
use crate::config::{Installation, Role};
use crate::{guest_program, role, tls_files};

const ROLES: [(Role, &str); 6] = [
    (Role::Node, "node"),
    (Role::Guestio, "guestio"),
    (Role::Control, "control"),
    (Role::Edge, "edge"),
    (Role::Ssh, "ssh"),
    (Role::Ai, "ai"),
];
/// Delay before a role is restarted; it doubles with each restart.
const INITIAL_RESTART_DELAY: Duration = Duration::from_millis(100);
const MAX_RESTART_DELAY: Duration = Duration::from_secs(5);
/// Uptime of a role that resets the delay.
const STABLE_UPTIME: Duration = Duration::from_secs(30);
/// Time from SIGTERM to SIGKILL.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(installation: &Installation, config: &Path) -> Result<()> {
    let lock = role::lock(installation.state())?;
    restore::ensure_finished(installation.state())?;
    role::prepare_folders(installation)?;
    tls_files::copy(installation)?;
    guest_program::pack(installation)?;
    write_pid(&lock)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (stop, stopped) = watch::channel(false);
        let certificates = tokio::spawn(tls_files::watch(installation.clone()));
        let roles = ROLES.map(|(role, name)| {
            let hidden = installation.hidden_variables(role);
            tokio::spawn(supervise(name, config.to_owned(), hidden, stopped.clone()))
        });
        tracing::info!(installation = %installation.id, state = %installation.state().display(), "started");
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping the roles; VMs keep running");
        stop.send_replace(true);
        certificates.abort();
        for role in roles {
            role.await?;
        }
        Ok(())
    })
}

/// Writes the pid into the lock file, for people and `xtask down`.
fn write_pid(lock: &std::fs::File) -> Result<()> {
    lock.set_len(0)?;
    writeln!(&mut &*lock, "{}", std::process::id()).context("cannot write the lock file")
}

/// Keeps a role running. The variables in `hidden` are removed from its environment.
async fn supervise(
    role: &'static str,
    config: std::path::PathBuf,
    hidden: Vec<String>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut delay = INITIAL_RESTART_DELAY;
    loop {
        let started = Instant::now();
        match spawn(role, &config, &hidden) {
            Ok(mut child) => {
                if let Some(output) = child.stderr.take() {
                    tokio::spawn(forward(output));
                }
                tokio::select! {
                    status = child.wait() => tracing::error!(role, ?status, "role ended; restarting it"),
                    () = stop_requested(&mut stopped) => return stop(role, child).await,
                }
            }
            Err(error) => tracing::error!(role, %error, "failed to start role"),
        }
        if started.elapsed() > STABLE_UPTIME {
            delay = INITIAL_RESTART_DELAY;
        }
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = stop_requested(&mut stopped) => return,
        }
        delay = (delay * 2).min(MAX_RESTART_DELAY);
    }
}

/// Waits until the supervisor is stopping.
async fn stop_requested(stopped: &mut watch::Receiver<bool>) {
    // An error means that the supervisor has ended.
    let _ = stopped.wait_for(|stop| *stop).await;
}

fn spawn(role: &str, config: &Path, hidden: &[String]) -> std::io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    for variable in hidden {
        command.env_remove(variable);
    }
    command
        .arg0("rigboxd")
        .args(["role", role, "--supervisor", &std::process::id().to_string(), "--config"])
        .arg(config)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
}

/// Forwards a role's log to our own standard error, without control characters: a role that was taken over gets no descriptor of a
/// terminal, and writes nothing to one but text.
async fn forward(mut output: ChildStderr) {
    let mut chunk = [0; 8192];
    while let Ok(count @ 1..) = output.read(&mut chunk).await {
        let text = chunk.get_mut(..count).unwrap_or_default();
        for byte in text.iter_mut().filter(|byte| byte.is_ascii_control() && !matches!(byte, b'\n' | b'\t')) {
            *byte = b'?';
        }
        // Without a reader there is no log, and roles go on.
        let _ = std::io::stderr().write_all(text);
    }
}

async fn stop(role: &str, mut child: Child) {
    if let Some(pid) = child.id() {
        let _ = rigbox_sys::spawn::send_signal(pid.cast_signed(), 15);
    }
    if tokio::time::timeout(STOP_TIMEOUT, child.wait()).await.is_err() {
        tracing::warn!(role, "role did not stop in time; killing it");
        let _ = child.kill().await;
    }
}
