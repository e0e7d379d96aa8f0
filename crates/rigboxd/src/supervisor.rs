//! The supervisor: starts one process per role, starts it again when it ends, ends them all when it is asked to. VMs outlive all of
//! this. When the supervisor itself is killed its roles end with it, and the next one finds everything by the journal.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::config::{Installation, Role};
use crate::{role, tls_files};

const ROLES: [(Role, &str); 4] =
    [(Role::Node, "node"), (Role::Guestio, "guestio"), (Role::Control, "control"), (Role::Edge, "edge")];
/// After a role's end it is started again: at once, then ever later.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A role that ran this long starts with the first pause again.
const STEADY: Duration = Duration::from_secs(30);
/// From SIGTERM to SIGKILL.
const END_WITHIN: Duration = Duration::from_secs(10);

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(installation: &Installation, config: &Path) -> Result<()> {
    let lock = role::lock(installation.state())?;
    role::prepare_folders(installation)?;
    tls_files::copy(installation)?;
    write_pid(&lock)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (stop, stopped) = watch::channel(false);
        let certificates = tokio::spawn(tls_files::keep(installation.clone()));
        let roles = ROLES.map(|(role, name)| {
            let hidden = installation.secret_variable().filter(|_| role != Role::Control).map(str::to_owned);
            tokio::spawn(keep(name, config.to_owned(), hidden, stopped.clone()))
        });
        tracing::info!(installation = %installation.id, state = %installation.state().display(), "rigboxd is up");
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("ending the roles; VMs stay");
        stop.send_replace(true);
        certificates.abort();
        for role in roles {
            role.await?;
        }
        Ok(())
    })
}

/// For people and `xtask down`: who holds the lock.
fn write_pid(lock: &std::fs::File) -> Result<()> {
    use std::io::Write;
    lock.set_len(0)?;
    writeln!(&mut &*lock, "{}", std::process::id()).context("the lock file")
}

/// Keeps a role running, without the variable `hidden` in its environment.
async fn keep(
    role: &'static str,
    config: std::path::PathBuf,
    hidden: Option<String>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let started = Instant::now();
        match spawn(role, &config, hidden.as_deref()) {
            Ok(mut child) => {
                tokio::select! {
                    status = child.wait() => tracing::error!(role, ?status, "the role ended; starting it again"),
                    () = asked(&mut stopped) => return end(role, child).await,
                }
            }
            Err(error) => tracing::error!(role, %error, "the role could not be started"),
        }
        pause = if started.elapsed() > STEADY { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = asked(&mut stopped) => return,
        }
    }
}

/// Waits until the supervisor has been asked to end.
async fn asked(stopped: &mut watch::Receiver<bool>) {
    // An error means that the supervisor has gone.
    let _ = stopped.wait_for(|stop| *stop).await;
}

fn spawn(role: &str, config: &Path, hidden: Option<&str>) -> std::io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    if let Some(hidden) = hidden {
        command.env_remove(hidden);
    }
    command
        .arg0("rigboxd")
        .args(["role", role, "--supervisor", &std::process::id().to_string(), "--config"])
        .arg(config)
        .stdin(Stdio::null())
        .spawn()
}

async fn end(role: &str, mut child: Child) {
    if let Some(pid) = child.id() {
        let _ = rigbox_sys::spawn::send_signal(pid.cast_signed(), 15);
    }
    if tokio::time::timeout(END_WITHIN, child.wait()).await.is_err() {
        tracing::warn!(role, "did not end in time and is killed");
        let _ = child.kill().await;
    }
}
