//! Counts of what a start takes: system calls of ours, of programs that the node runs, and of the VMM, and requests to the VMM's API.

use std::collections::HashMap;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rigbox_testkit::blocking::eventually;

use super::groups::vmm_of;
use super::installation::{Driver, Installation, SETTLE_TIMEOUT, START_TIMEOUT, run};
use super::port::Port;

const TRACE: &str = "/tmp/system-calls";
/// Beginnings of requests to Firecracker's API, as strace shows them.
const REQUESTS: [&str; 3] = ["\"GET /", "\"PUT /", "\"PATCH /"];

/// Counts of a start, by what made them.
#[derive(Debug, Default)]
struct Counts {
    node: u32,
    guestio: u32,
    vmm: u32,
    programs: u32,
    requests: u32,
}

/// Firecracker boots by a file: nothing is asked of it before its guest runs.
pub(super) fn system_calls_of_a_start_are_counted(rigbox: &Installation, port: &Port) -> Result<()> {
    rigbox.rig(&["workspace", "stop", "two"])?;
    rigbox.wait_status("two", "stopped", SETTLE_TIMEOUT)?;
    let (node, guestio) = (role("node")?, role("guestio")?);
    let mut strace = Command::new("strace")
        .args(["-f", "-q", "-s", "64", "-e", "signal=none", "-o", TRACE, "-p", &node, "-p", &guestio])
        .spawn()
        .context("strace")?;
    let traced = |pid: &str| {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        anyhow::Ok(status.contains(&format!("TracerPid:\t{}\n", strace.id())))
    };
    let attached = eventually("strace is attached", SETTLE_TIMEOUT, || {
        Ok((traced(&node)? && traced(&guestio)?).then_some(()))
    });
    let started = attached.and_then(|()| {
        rigbox.rig(&["workspace", "start", "two"])?;
        rigbox.wait_status("two", "running", START_TIMEOUT)
    });
    run("kill", &["-INT", &strace.id().to_string()])?;
    strace.wait()?;
    started?;
    let vmm = vmm_of(&rigbox.field("two", "id")?)?.pid.to_string();
    let counts = count(&threads([(&node, "node"), (&guestio, "guestio"), (&vmm, "vmm")])?)?;
    port.note(&format!("a start: {counts:?}"))?;
    ensure!(counts.node > 0 && counts.vmm > 0, "{counts:?}");
    if rigbox.driver() == Driver::Firecracker {
        ensure!(counts.requests == 0, "{counts:?}");
    }
    Ok(())
}

/// Returns the pid of a role.
fn role(name: &str) -> Result<String> {
    run("pgrep", &["-f", "-o", &format!("^rigboxd role {name}")])
}

/// Returns the threads of processes, with the names of these.
fn threads<'a>(processes: [(&str, &'a str); 3]) -> Result<HashMap<String, &'a str>> {
    let mut threads = HashMap::new();
    for (pid, name) in processes {
        for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
            threads.insert(entry?.file_name().to_string_lossy().into_owned(), name);
        }
    }
    Ok(threads)
}

fn count(threads: &HashMap<String, &str>) -> Result<Counts> {
    let mut counts = Counts::default();
    let trace = fs::read(TRACE)?;
    for line in String::from_utf8_lossy(&trace).lines() {
        let Some((thread, call)) = line.split_once(' ') else { continue };
        // The second half of one that is counted, or an end.
        if call.contains(" resumed>") || call.trim_start().starts_with("+++") {
            continue;
        }
        let counted = match threads.get(thread).copied() {
            Some("node") => &mut counts.node,
            Some("guestio") => {
                if REQUESTS.iter().any(|request| call.contains(request)) {
                    counts.requests += 1;
                }
                &mut counts.guestio
            }
            Some(_) => &mut counts.vmm,
            None => &mut counts.programs,
        };
        *counted += 1;
    }
    Ok(counts)
}
