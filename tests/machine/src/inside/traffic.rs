//! Tests of what goes into and out of VMs: files, their ports, and their network.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rigbox_testkit::blocking::eventually;

use super::installation::{Driver, Installation, run};
use super::port::Port;

/// Gateway of apps.
const APPS: &str = "127.0.0.1:7080";
/// Time for a web server in a VM to listen.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(120);
/// Time in which Firecracker writes its metrics twice, each minute once.
const METRICS_TIMEOUT: Duration = Duration::from_secs(150);
const PAGE: &str = "hello from one";

/// A program of 10 MB or so, there and back.
pub(super) fn files_pass_in_both_directions(rigbox: &Installation, _: &Port) -> Result<()> {
    let (program, back) = ("/usr/local/bin/rig", "/tmp/rig-that-came-back");
    rigbox.rig(&["cp", program, "one:/tmp/copied"])?;
    rigbox.rig(&["cp", "one:/tmp/copied", back])?;
    let sum = |text: &str| text.split(' ').next().unwrap_or_default().to_owned();
    let ours = sum(&run("sha256sum", &[program])?);
    for theirs in [sum(&rigbox.exec("one", "sha256sum /tmp/copied")?), sum(&run("sha256sum", &[back])?)] {
        ensure!(ours == theirs, "{theirs} instead of {ours}");
    }
    Ok(std::fs::remove_file(back)?)
}

pub(super) fn app_is_reached_by_its_owner_only(rigbox: &Installation, _: &Port) -> Result<()> {
    let serve = format!(
        "mkdir -p ~/site && echo '{PAGE}' > ~/site/index.html && cd ~/site && \
         setsid nohup python3 -m http.server 8000 > /dev/null 2>&1 < /dev/null &"
    );
    rigbox.exec("one", &serve)?;
    rigbox.rig(&["app", "new", "page", "--port", "8000", "-w", "one"])?;
    let key = format!("X-Rigbox-Key: {}\r\n", rigbox.key()?);
    eventually("the app answers its owner", LISTEN_TIMEOUT, || {
        let answer = page(&key)?;
        ensure!(answer.starts_with("HTTP/1.1 200") && answer.contains(PAGE), "{answer}");
        Ok(Some(()))
    })?;
    let answer = page("")?;
    ensure!(answer.starts_with("HTTP/1.1 403"), "a stranger gets {answer}");
    Ok(())
}

fn page(header: &str) -> Result<String> {
    let mut stream = TcpStream::connect(APPS)?;
    stream.set_read_timeout(Some(LISTEN_TIMEOUT))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: page.rigbox.localhost\r\n{header}Connection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("the gateway's answer")?;
    Ok(answer)
}

/// Each VM has its own bridge at one address, and nothing else of this machine.
pub(super) fn vm_reaches_its_own_bridge_only(rigbox: &Installation, _: &Port) -> Result<()> {
    let (one, two) = (rigbox.field("one", "id")?, rigbox.field("two", "id")?);
    for (name, own, other) in [("one", &one, &two), ("two", &two, &one)] {
        let answer = rigbox.exec(name, "curl -s -m 60 http://172.16.0.1:9090/rig/v1/workspaces")?;
        ensure!(
            answer.contains(own.as_str()) && !answer.contains(other.as_str()),
            "the bridge of {name} says {answer}"
        );
    }
    for port in [22, 7022, 7070, 7080] {
        let line = format!("curl -s -m 10 telnet://172.16.0.1:{port} < /dev/null; echo $?");
        let ended = rigbox.exec("one", &line)?;
        // Could not connect, or had no answer.
        ensure!(["7", "28"].contains(&ended.as_str()), "172.16.0.1:{port}: curl ended with {ended}");
    }
    Ok(())
}

/// A guest that sends frames with another one's address is found in the log.
pub(super) fn failures_that_a_vmm_counts_are_logged(rigbox: &Installation, port: &Port) -> Result<()> {
    if rigbox.driver() == Driver::Qemu {
        return port.note("skipped: QEMU counts no failures");
    }
    let send = "link=$(ip -o -4 route show default | sed 's/.* dev \\([^ ]*\\).*/\\1/'); \
        own=$(cat /sys/class/net/$link/address); sudo ip link set $link address 02:00:00:00:00:99; \
        ping -c 1 -W 1 172.16.0.1; sudo ip link set $link address $own";
    rigbox.exec("one", send)?;
    eventually("the failure is in the log", METRICS_TIMEOUT, || {
        let log = run("journalctl", &["-u", "rigboxd", "--no-pager", "-o", "cat"])?;
        Ok(log.contains("net_net.tx_spoofed_mac_count=").then_some(()))
    })
}
