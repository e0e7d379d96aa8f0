//! State of the guest's system: whether systemd has finished its start, and whether a unit failed in it. systemd announces the end of its
//! start on a socket (sd_notify(3)).

use std::fs;
use std::io;
use std::time::Duration;

use tokio::net::UnixDatagram;
use tokio::process::Command;
use tokio::sync::watch;

use super::NOTIFY_SOCKET;
use crate::{rig, systemctl};

/// systemd's words.
const STARTING: &str = "starting";
const RUNNING: &str = "running";
const DEGRADED: &str = "degraded";
/// Time limit for systemd's answer. It is still in its first seconds.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_MESSAGE_BYTES: usize = 4096;

/// Starts to watch systemd, and returns its current state.
pub(super) fn watch() -> io::Result<watch::Receiver<&'static str>> {
    // Left by nobody: each boot has a new /run.
    let socket = UnixDatagram::bind(NOTIFY_SOCKET)?;
    fs::set_permissions(NOTIFY_SOCKET, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let (sender, receiver) = watch::channel(STARTING);
    tokio::spawn(async move {
        if let Err(error) = wait_until_started(&socket).await {
            eprintln!("rigbox-agent: {NOTIFY_SOCKET}: {error}");
        }
        systemctl::uncover();
        sender.send_replace(query().await);
        // Who runs it earlier, or after a failure, fetches it without the agent.
        if let Ok(Err(error)) = tokio::task::spawn_blocking(rig::fetch).await {
            eprintln!("rigbox-agent: failed to fetch rig: {error:#}");
        }
        // The socket stays, because systemd goes on writing to it.
        loop {
            let _ = receive(&socket).await;
        }
    });
    Ok(receiver)
}

async fn wait_until_started(socket: &UnixDatagram) -> io::Result<()> {
    while !receive(socket).await?.lines().any(|line| line == "READY=1") {}
    Ok(())
}

async fn receive(socket: &UnixDatagram) -> io::Result<String> {
    let mut message = vec![0; MAX_MESSAGE_BYTES];
    let size = socket.recv(&mut message).await?;
    message.truncate(size);
    Ok(String::from_utf8_lossy(&message).into_owned())
}

/// Asks systemd once. A system without an answer is degraded.
async fn query() -> &'static str {
    let query = Command::new("/usr/bin/systemctl").arg("is-system-running").kill_on_drop(true).output();
    match tokio::time::timeout(QUERY_TIMEOUT, query).await {
        Ok(Ok(output)) if output.stdout.trim_ascii() == RUNNING.as_bytes() => RUNNING,
        _ => DEGRADED,
    }
}
