//! Many sessions at once, connections in quick succession, and a client that reads nothing: all are served, and the gateway stays in its bounds.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::client::{Client, Running, remove_key, shown, target};
use crate::TestResult;
use crate::clients::shared;
use crate::harness::installation::{self, Installation, SSH_PORT};
use crate::harness::is_soak;
use crate::security::neighbors::Watch;

tests![
    sessions_at_once_are_served,
    connections_in_quick_succession_are_all_taken,
    client_that_reads_nothing_costs_little,
];

/// Sessions at once, and at full length. An emulated VM on a busy machine takes seconds for each.
const SESSIONS: usize = 20;
const MANY_SESSIONS: usize = 50;
/// Memory of the gateway for 50 sessions: about half a MiB each.
const MAX_SESSIONS_KB: u64 = 32 << 10;
/// Memory of the gateway for a client that does not read: what waits for it, and what an allocator takes along.
const MAX_FROZEN_KB: u64 = 8 << 10;

/// Returns the memory of the role `ssh`.
fn memory_kb(installation: &Installation) -> Result<u64> {
    let roles = installation.role_pids()?;
    let pid = roles.iter().find(|(role, _)| role == "ssh").context("no role")?.1;
    installation::memory_kb(pid)
}

fn sessions_at_once_are_served(installation: &Installation) -> TestResult {
    let id = shared(installation)?;
    let client = Client::registered(installation, "at-once", "ed25519")?;
    let host = target("shared", &id);
    let count = if is_soak() { MANY_SESSIONS } else { SESSIONS };
    // Known beforehand, so that no two clients write it down at once.
    client.output(&[&host, "true"])?;
    let (watch, before, since) = (Watch::start(installation)?, memory_kb(installation)?, Instant::now());
    let started = (0..count).map(|_| client.start(&[&host, "echo in; cat"]));
    let mut sessions: Vec<Running> = started.collect::<Result<_>>()?;
    for (number, session) in sessions.iter_mut().enumerate() {
        let mut begun = [0; 3];
        session.read(&mut begun).with_context(|| format!("session {number}"))?;
        ensure!(&begun == b"in\n", "session {number}: {begun:?}");
    }
    eprintln!("{count} sessions are open after {:.1} s", since.elapsed().as_secs_f32());
    let returns = watch.end(installation, "sessions at once")?;
    let grown = memory_kb(installation)?.saturating_sub(before);
    ensure!(grown <= MAX_SESSIONS_KB, "{grown} KiB more");
    for (number, session) in sessions.iter_mut().enumerate() {
        let line = format!("{number}\n");
        session.0.stdin.as_mut().context("stdin")?.write_all(line.as_bytes())?;
        let ended = session.finish()?;
        ensure!(ended.stdout == line.as_bytes() && ended.status.success(), "{number}: {}", shown(&ended));
    }
    remove_key(installation, "at-once")?;
    returns.wait()
}

fn connections_in_quick_succession_are_all_taken(installation: &Installation) -> TestResult {
    const CONNECTIONS: usize = 20;
    const LOG_INS: usize = 10;
    // Held, and one after the other, as by a program that looks again and again.
    for is_held in [true, false] {
        let mut held = Vec::new();
        for number in 0..CONNECTIONS {
            let mut stream = TcpStream::connect(("127.0.0.1", SSH_PORT))?;
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            let mut version = [0; 8];
            stream.read_exact(&mut version).with_context(|| format!("connection {number}"))?;
            ensure!(&version == b"SSH-2.0-", "connection {number}: {version:?}");
            held.extend(is_held.then_some(stream));
        }
    }
    let id = shared(installation)?;
    let client = Client::registered(installation, "quick", "ed25519")?;
    let (host, since) = (target("shared", &id), Instant::now());
    for number in 0..LOG_INS {
        let said = client.output(&[&host, "echo in"]).with_context(|| format!("log-in {number}"))?;
        ensure!(said == "in", "log-in {number}: {said}");
    }
    let each = since.elapsed().as_millis() / LOG_INS as u128;
    eprintln!("a log-in with a command takes {each} ms");
    remove_key(installation, "quick")
}

fn client_that_reads_nothing_costs_little(installation: &Installation) -> TestResult {
    let duration = Duration::from_secs(if is_soak() { 30 } else { 5 });
    let id = shared(installation)?;
    let client = Client::registered(installation, "frozen", "ed25519")?;
    let host = target("shared", &id);
    let mut frozen = client.start(&[&host, "exec cat /dev/zero"])?;
    frozen.read(&mut vec![0; 1 << 20])?;
    let before = memory_kb(installation)?;
    let pid = Pid::from_raw(frozen.0.id().cast_signed());
    kill(pid, Signal::SIGSTOP)?;
    let (since, mut peak, mut served) = (Instant::now(), before, 0);
    while since.elapsed() < duration {
        ensure!(client.output(&[&host, "echo beside"])? == "beside", "another session");
        (peak, served) = (peak.max(memory_kb(installation)?), served + 1);
    }
    eprintln!("{served} sessions beside a frozen one; {} KiB more", peak.saturating_sub(before));
    ensure!(peak <= before + MAX_FROZEN_KB, "{before} KiB before, {peak} KiB now");
    // It goes on when its client does.
    kill(pid, Signal::SIGCONT)?;
    frozen.read(&mut vec![0; 8 << 20])?;
    remove_key(installation, "frozen")?;
    // Its key was its permission.
    let ended = frozen.finish()?;
    ensure!(ended.status.code() == Some(255), "{:?}", ended.status);
    Ok(())
}
