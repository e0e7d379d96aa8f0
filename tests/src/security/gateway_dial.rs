//! Connections of gateways to VMs: listed ports of the current boot only.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rigbox_testkit::blocking::eventually;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::json;

use crate::TestResult;
use crate::harness::installation::Installation;
use crate::harness::roles;

tests![gateway_reaches_listed_ports_of_one_boot_only];

/// Returns the current boot id.
pub(crate) fn boot_of(installation: &Installation, id: &str) -> Result<String> {
    let text = std::fs::read_to_string(installation.state().join(format!("node/journal/{id}.json")))?;
    let record: serde_json::Value = serde_json::from_str(&text)?;
    Ok(record.pointer("/boot/boot_id").and_then(|boot| boot.as_str()).context("no boot")?.to_owned())
}

/// Waits for an event on a socket.
pub(crate) fn happens(socket: &OwnedFd, what: PollFlags, within: Duration) -> Result<bool> {
    let mut fds = [PollFd::new(socket, what)];
    let within = Timespec { tv_sec: within.as_secs().try_into()?, tv_nsec: within.subsec_nanos().into() };
    Ok(poll(&mut fds, Some(&within))? > 0)
}

/// Returns whether the socket gets connected.
pub(crate) fn connects(socket: &OwnedFd) -> Result<bool> {
    if !happens(socket, PollFlags::OUT, Duration::from_secs(3))? {
        return Ok(false);
    }
    Ok(rustix::net::sockopt::socket_error(socket)?.is_ok())
}

/// Aims a socket at another place, as its holder can.
pub(crate) fn aim(socket: &OwnedFd, address: Ipv4Addr, port: u16) -> Result<bool> {
    rustix::net::connect_unspec(socket)?;
    match rustix::net::connect(socket, &SocketAddrV4::new(address, port)) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => connects(socket),
        Err(_) => Ok(false),
    }
}

/// Returns the response of a web server.
fn fetch(socket: OwnedFd) -> Result<String> {
    ensure!(connects(&socket)?, "no connection");
    let mut stream = TcpStream::from(socket);
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut output = String::new();
    stream.read_to_string(&mut output)?;
    Ok(output)
}

fn gateway_reaches_listed_ports_of_one_boot_only(installation: &Installation) -> TestResult {
    let api = &installation.api;
    let id = api.spawn("dialled")?;
    let boot = boot_of(installation, &id)?;
    for port in [8000, 8001] {
        api.sh(&id, &format!("mkdir -p {port}; echo port {port} > {port}/index.html; setsid python3 -m http.server -d {port} {port} >/dev/null 2>&1 </dev/null &"))?;
    }
    api.sh(
        &id,
        "for i in $(seq 100); do curl -sf localhost:8000 localhost:8001 && exit 0; sleep 0.2; done; exit 1",
    )?;
    let dial = |boot: &str, port| roles::dial(installation, &id, boot, port);

    let refused = |asked: Result<Result<OwnedFd, String>>, wanted: &str| -> TestResult {
        let code = asked?.err().context("a connection was given")?;
        ensure!(code == wanted, "refused as `{code}`, not `{wanted}`");
        Ok(())
    };
    refused(dial(&boot, 8000), "port_not_listed")?;
    let app =
        api.post("/apps", &json!({"name": "dialled", "workspace_id": id, "port": 8000}))?.expect(201)?;
    let app = app.pointer("/app/id").and_then(|app| app.as_str()).context("no app")?;
    let given = dial(&boot, 8000)?.map_err(anyhow::Error::msg)?;
    ensure!(fetch(given)?.ends_with("port 8000\n"), "another server answered");
    refused(dial(&boot, 8001), "port_not_listed")?;
    refused(dial("00000000-0000-0000-0000-000000000000", 8000), "stale_boot")?;
    refused(roles::dial(installation, "ws-aaaaaaaa", &boot, 8000), "no_vm")?;
    for outsider in [0, 65534] {
        refused(roles::dial_as(installation, outsider, &id, &boot, 8000), "closed")?;
    }

    // A gateway may reconnect a socket, but only to ports that it may dial.
    let held = dial(&boot, 8000)?.map_err(anyhow::Error::msg)?;
    ensure!(connects(&held)?, "no connection");
    for (address, port) in [
        ([172, 16, 0, 2], 8001),
        ([172, 16, 0, 2], 22),
        ([172, 16, 0, 1], 8000),
        ([127, 0, 0, 1], 8000),
        ([172, 16, 0, 1], 53),
        ([127, 0, 0, 1], 7070),
        ([8, 8, 8, 8], 8000),
    ] {
        ensure!(!aim(&held, address.into(), port)?, "a dialled socket reached {address:?}:{port}");
    }
    ensure!(aim(&held, [172, 16, 0, 2].into(), 8000)?, "the test cannot aim a socket");

    // A port that is no longer listed is cut off at once, open connections included.
    api.send_json("PATCH", &format!("/apps/{app}"), r#"{"port":8001}"#)?.expect(200)?;
    ended(&held, "a connection to a port that is not listed any more")?;
    refused(dial(&boot, 8000), "port_not_listed")?;
    let given = dial(&boot, 8001)?.map_err(anyhow::Error::msg)?;
    ensure!(fetch(given)?.ends_with("port 8001\n"), "another server answered");

    // The policy and open connections survive a restart of the node.
    let held = dial(&boot, 8001)?.map_err(anyhow::Error::msg)?;
    ensure!(connects(&held)?, "no connection");
    // (Control is stopped, because it would send the list of ports again.)
    installation.without_role("control", || {
        installation.kill_role("node")?;
        let given =
            eventually("the node dials again", Duration::from_secs(20), || Ok(dial(&boot, 8001)?.ok()))?;
        ensure!(fetch(given)?.ends_with("port 8001\n"), "another server answered");
        ensure!(!happens(&held, PollFlags::IN, Duration::ZERO)?, "a connection ended with the node");
        Ok(())
    })?;
    let held = dial(&boot, 8001)?.map_err(anyhow::Error::msg)?;
    ensure!(connects(&held)?, "no connection");

    // The peers of a boot's connections notice its end, even if the VM cannot announce it.
    let pids = installation.vmm_pids()?;
    let vmm = vmm_of(&pids, installation, &id)?;
    rigbox_sys::spawn::send_signal(vmm, 9)?;
    ended(&held, "a connection to a VM that was killed")?;
    refused(dial(&boot, 8001), "no_vm")?;
    api.wait(&id, "failed")?;
    api.remove(&id)
}

/// The VMM's pid as the node knows it.
fn vmm_of(pids: &[i32], installation: &Installation, id: &str) -> Result<i32> {
    let text = std::fs::read_to_string(installation.state().join(format!("node/journal/{id}.json")))?;
    let record: serde_json::Value = serde_json::from_str(&text)?;
    let pid =
        record.pointer("/boot/process/pid").and_then(serde_json::Value::as_i64).context("no process")?;
    let pid = i32::try_from(pid)?;
    ensure!(pids.contains(&pid), "{pid} is no VMM");
    Ok(pid)
}

/// The socket reads an error, and soon.
fn ended(socket: &OwnedFd, what: &str) -> TestResult {
    let since = Instant::now();
    ensure!(happens(socket, PollFlags::IN, Duration::from_secs(5))?, "{what} goes on");
    let mut stream = TcpStream::from(socket.try_clone()?);
    let error = stream.read(&mut [0]).err().with_context(|| format!("{what} has something to read"))?;
    ensure!(error.kind() != ErrorKind::WouldBlock, "{what}: {error}");
    eprintln!("{what} ended after {} ms: {error}", since.elapsed().as_millis());
    Ok(())
}
