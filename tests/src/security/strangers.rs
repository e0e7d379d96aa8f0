//! Strangers by the thousand at the API and at edge, each from an address block of its own: whatever they hold open, whoever sends its
//! request at once is served.

use std::any::Any;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use anyhow::{Context, ensure};

use crate::TestResult;
use crate::harness::installation::{Installation, PORT};
use crate::harness::internet::run;
use crate::harness::{sockets, visitor};
use crate::security::neighbors::{Harm, Honest, Watch};

tests![
    idle_connections_keep_nobody_out,
    slow_heads_keep_nobody_out,
    slow_bodies_keep_nobody_out,
    unread_responses_keep_nobody_out,
];

/// Clients, each of a /64 of its own: more than the API has places, and edge where a process may have 20,000 descriptors.
const STRANGERS: u16 = 10_000;
/// Host of the API.
const API: &str = "localhost";
/// Block that documentation uses, here of the loopback interface.
const BLOCK: &str = "2001:db8::/32";

/// Has strangers connect to a port, each from a block of its own, and send `request`.
fn connect(port: u16, request: &str, strangers: u16) -> anyhow::Result<Vec<Box<dyn Any>>> {
    sockets::allow_many()?;
    run("ip", &["-6", "route", "replace", "local", BLOCK, "dev", "lo"])?;
    let to = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    let mut held: Vec<Box<dyn Any>> = Vec::new();
    for number in 0..strangers {
        let from = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, number, 0, 0, 0, 1));
        let mut stream = sockets::connect_from(from, to).with_context(|| format!("{number} at {port}"))?;
        // Its connection may have given way already.
        let _ = stream.write_all(request.as_bytes());
        held.push(Box::new(stream));
    }
    Ok(held)
}

/// Strangers who hold the API and edge with heads that do not end, half of them each.
pub(crate) fn hold_both() -> anyhow::Result<Harm> {
    let mut held = Vec::new();
    for port in [PORT, visitor::PORT] {
        held.extend(connect(port, "GET / HTTP/1.1\r\nX-Slow: ", STRANGERS / 2)?);
    }
    Ok(Harm::holding(held))
}

/// Has every stranger connect to the API and to edge and send `head`, and checks that the honest tenant is served meanwhile, and that every
/// role stays within its bounds and returns what it took.
fn meet(installation: &Installation, what: &str, api_host: &str, head: &str) -> TestResult {
    let honest = Honest::shared(installation)?;
    for (port, host) in [
        (PORT, format!("{api_host}:{PORT}")),
        (visitor::PORT, format!("honest.rigbox.localhost:{}", visitor::PORT)),
    ] {
        let watch = Watch::start(installation)?;
        let to = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
        let held = connect(port, &head.replace("HOST", &host), STRANGERS)?;
        honest.is_served()?;
        // One of those from outside, too.
        let newcomer = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1));
        let mut stream = sockets::connect_from(newcomer, to)?;
        stream.set_read_timeout(Some(crate::security::neighbors::TIMEOUT))?;
        stream
            .write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())?;
        let mut start = [0; 9];
        stream.read_exact(&mut start).with_context(|| format!("a newcomer at port {port}"))?;
        ensure!(&start == b"HTTP/1.1 ", "a newcomer at port {port}");
        let returns = watch.end(installation, &format!("{what} at port {port}"))?;
        drop(held);
        returns.wait()?;
    }
    Ok(())
}

fn idle_connections_keep_nobody_out(installation: &Installation) -> TestResult {
    meet(installation, "idle connections", API, "")
}

fn slow_heads_keep_nobody_out(installation: &Installation) -> TestResult {
    meet(installation, "slow heads", API, "GET / HTTP/1.1\r\nHost: HOST\r\nX-Slow: ")
}

fn slow_bodies_keep_nobody_out(installation: &Installation) -> TestResult {
    let head = "POST /sign-in HTTP/1.1\r\nHost: HOST\r\nOrigin: http://HOST\r\nContent-Type: application/x-www-form-urlencoded\r\n\
                Content-Length: 1000\r\n\r\nemail=";
    meet(installation, "slow bodies", "console.localhost", head)
}

fn unread_responses_keep_nobody_out(installation: &Installation) -> TestResult {
    let request = "GET /api-docs/openapi.json HTTP/1.1\r\nHost: HOST\r\n\r\n";
    meet(installation, "unread responses", API, &request.repeat(8))?;
    installation.api.remove(&Honest::shared(installation)?.id)
}
