//! Clients of both proxies: `wrk` for load, and by hand where one request, one download or many sockets are looked at.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::net::{self, AddressFamily, SocketFlags, SocketType};

use super::apps::SOCKETS_HOST;
use crate::nginx::WORKERS;

/// Limit for a read.
const READ_TIMEOUT: Duration = Duration::from_secs(20);
/// WebSockets of one client, below edge's limit of connections per address.
const WEBSOCKETS_PER_CLIENT: usize = 2_000;
/// Clients of `request_each_app`.
const CLIENTS: u32 = 16;

/// Result of a load.
pub(super) struct LoadResult {
    pub(super) per_second: f64,
    pub(super) p99_ms: f64,
}

/// Requests `/` on `connections` connections for `duration`.
pub(super) fn load(
    port: u16,
    connections: u32,
    duration: Duration,
    headers: &[String],
    script: Option<&str>,
) -> Result<LoadResult> {
    let mut command = Command::new("wrk");
    command.args(["--latency", "-t", &WORKERS.to_string(), "-c", &connections.to_string()]);
    command.args(["-d", &format!("{}s", duration.as_secs())]);
    for header in headers {
        command.args(["-H", header]);
    }
    let folder = tempfile::tempdir()?;
    if let Some(script) = script {
        let path = folder.path().join("script.lua");
        std::fs::write(&path, script)?;
        command.arg("-s").arg(path);
    }
    let output =
        command.arg(format!("http://127.0.0.1:{port}/")).output().context("cannot run wrk; install it")?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "wrk: {}", String::from_utf8_lossy(&output.stderr));
    ensure!(!text.contains("Non-2xx"), "some requests failed: {text}");
    ensure!(!text.contains("Socket errors"), "connections failed: {text}");
    let after = |word: &str| -> Result<&str> {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(word));
        Ok(line.with_context(|| format!("no `{word}` in {text}"))?.trim())
    };
    Ok(LoadResult { per_second: after("Requests/sec:")?.parse()?, p99_ms: milliseconds(after("99%")?)? })
}

/// Returns a script for `wrk` that requests random ones of `apps` apps.
pub(super) fn random_apps_script(apps: u32) -> String {
    format!(
        "request = function()\n\
         return \"GET / HTTP/1.1\\r\\nHost: app-\" .. math.random({apps}) .. \".rigbox.localhost\\r\\n\\r\\n\"\n\
         end\n"
    )
}

fn milliseconds(text: &str) -> Result<f64> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).context("a unit")?;
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse()?;
    Ok(match unit {
        "us" => number / 1e3,
        "ms" => number,
        "s" => number * 1e3,
        other => anyhow::bail!("unknown unit {other}"),
    })
}

/// Connection with sequential requests of `/`.
pub(super) struct Client {
    stream: BufReader<TcpStream>,
    request: Vec<u8>,
}

impl Client {
    pub(super) fn open(port: u16, host: &str, key: Option<&str>) -> Result<Self> {
        let key = key.map(|key| format!("X-Rigbox-Key: {key}\r\n")).unwrap_or_default();
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n{key}\r\n").into_bytes();
        Ok(Self { stream: BufReader::new(connect(port)?), request })
    }

    /// Sends a request, and returns its latency.
    pub(super) fn request(&mut self) -> Result<Duration> {
        let started = Instant::now();
        self.stream.get_mut().write_all(&self.request)?;
        let length = head(&mut self.stream)?.context("a response without a length")?;
        let mut body = vec![0; usize::try_from(length)?];
        self.stream.read_exact(&mut body)?;
        Ok(started.elapsed())
    }
}

fn connect(port: u16) -> Result<TcpStream> {
    connect_from(Ipv4Addr::LOCALHOST, port)
}

fn connect_from(address: Ipv4Addr, port: u16) -> Result<TcpStream> {
    let socket = net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    net::bind(&socket, &SocketAddrV4::new(address, 0))?;
    net::connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    Ok(stream)
}

/// Reads the head of a successful response, and returns the length of its body.
fn head(stream: &mut impl BufRead) -> Result<Option<u64>> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    if !line.starts_with("HTTP/1.1 200") && !line.starts_with("HTTP/1.1 101") {
        let rest = String::from_utf8_lossy(stream.fill_buf()?).into_owned();
        bail!("{}: {rest}", line.trim_end());
    }
    let mut length = None;
    loop {
        line.clear();
        ensure!(stream.read_line(&mut line)? > 0, "the connection ended");
        match line.trim_end().split_once(": ") {
            None => return Ok(length),
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = Some(value.parse()?)
            }
            Some(_) => {}
        }
    }
}

/// Requests each of `apps` apps once.
pub(super) fn request_each_app(port: u16, apps: u32) -> Result<()> {
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|first| {
                scope.spawn(move || -> Result<()> {
                    let mut client = Client::open(port, "", None)?;
                    for app in (1..=apps).skip(first as usize).step_by(CLIENTS as usize) {
                        client.request =
                            format!("GET / HTTP/1.1\r\nHost: app-{app}.rigbox.localhost\r\n\r\n")
                                .into_bytes();
                        client.request()?;
                    }
                    Ok(())
                })
            })
            .collect();
        clients
            .into_iter()
            .try_for_each(|client| client.join().map_err(|_| anyhow::anyhow!("a client panicked"))?)
    })
}

/// Downloads the large file, and returns the number of bytes.
pub(super) fn download(port: u16, host: &str) -> Result<u64> {
    let mut stream = BufReader::with_capacity(512 * 1024, connect(port)?);
    stream
        .get_mut()
        .write_all(format!("GET /large HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let length = head(&mut stream)?.context("a download without a length")?;
    let mut count = 0;
    while count < length {
        let read = stream.fill_buf()?.len();
        ensure!(read > 0, "the download ended early");
        stream.consume(read);
        count += read as u64;
    }
    Ok(count)
}

/// Opens WebSockets, each `WEBSOCKETS_PER_CLIENT` from an address of their own.
pub(super) fn websockets(port: u16, count: usize) -> Result<Vec<TcpStream>> {
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {SOCKETS_HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    (0..count)
        .map(|i| {
            let client = Ipv4Addr::new(127, 0, 1, u8::try_from(1 + i / WEBSOCKETS_PER_CLIENT)?);
            let mut stream = BufReader::with_capacity(1024, connect_from(client, port)?);
            stream.get_mut().write_all(request.as_bytes())?;
            head(&mut stream)?;
            Ok(stream.into_inner())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_of_wrk_are_parsed() {
        assert_eq!(milliseconds("850.00us").unwrap(), 0.85);
        assert_eq!(milliseconds("3.50ms").unwrap(), 3.5);
        assert_eq!(milliseconds("1.20s").unwrap(), 1200.0);
        assert!(milliseconds("1").is_err());
    }
}
