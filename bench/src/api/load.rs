//! Lightweight load generator: a few threads with several connections each, and one request at a time per connection.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::epoll;
use rustix::fd::{AsFd, OwnedFd};

/// Threads, which share the CPUs with the server.
const THREADS: usize = 2;
/// Connections per thread.
const CONNECTIONS: usize = 16;
/// Limit without any response.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
const BUFFER_BYTES: usize = 64 * 1024;

/// Repeated request to one server.
pub(super) struct Load {
    port: u16,
    request: Vec<u8>,
}

/// Result of a run.
pub(super) struct LoadResult {
    pub(super) per_second: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
}

impl Load {
    /// Returns a `GET` of `path`, with a key or without.
    pub(super) fn new(port: u16, path: &str, key: Option<&str>) -> Self {
        let key = key.map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default();
        let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{key}\r\n").into_bytes();
        Self { port, request }
    }

    /// Sends the request `requests` times.
    pub(super) fn run(&self, requests: u32) -> Result<LoadResult> {
        let left = AtomicU32::new(requests);
        let started = Instant::now();
        let mut latencies = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| self.thread(&left))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?)
                .collect::<Result<Vec<_>>>()
        })?
        .concat();
        let took = started.elapsed();
        latencies.sort_unstable();
        let quantile = |share: f64| -> Result<f64> {
            let at = ((latencies.len() as f64 - 1.0) * share).round() as usize;
            Ok(latencies.get(at).context("nothing was answered")?.as_secs_f64() * 1e3)
        };
        let per_second = latencies.len() as f64 / took.as_secs_f64();
        Ok(LoadResult { per_second, p50_ms: quantile(0.5)?, p99_ms: quantile(0.99)? })
    }

    /// Returns the latencies of this thread's requests.
    fn thread(&self, left: &AtomicU32) -> Result<Vec<Duration>> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut connections =
            (0..CONNECTIONS).map(|at| Connection::open(self.port, &poll, at)).collect::<Result<Vec<_>>>()?;
        let mut latencies = Vec::new();
        let mut busy = 0;
        for connection in &mut connections {
            busy += usize::from(connection.send(&self.request, left)?);
        }
        let mut events = Vec::with_capacity(CONNECTIONS);
        let timeout = READ_TIMEOUT.try_into()?;
        while busy > 0 {
            events.clear();
            epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&timeout))?;
            anyhow::ensure!(!events.is_empty(), "no response for {} s", READ_TIMEOUT.as_secs());
            for event in &events {
                let at = usize::try_from(event.data.u64())?;
                let connection = connections.get_mut(at).context("a connection of this thread")?;
                if let Some(took) = connection.receive()? {
                    latencies.push(took);
                    busy -= usize::from(!connection.send(&self.request, left)?);
                }
            }
        }
        Ok(latencies)
    }
}

struct Connection {
    stream: TcpStream,
    sent: Instant,
    response: Vec<u8>,
    have: usize,
    /// Length of the whole response, once its head is there.
    length: Option<usize>,
}

impl Connection {
    fn open(port: u16, poll: &OwnedFd, at: usize) -> Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let data = epoll::EventData::new_u64(at as u64);
        epoll::add(poll, stream.as_fd(), data, epoll::EventFlags::IN)?;
        Ok(Self { stream, sent: Instant::now(), response: vec![0; BUFFER_BYTES], have: 0, length: None })
    }

    /// Sends a request unless enough were sent; returns whether it did.
    fn send(&mut self, request: &[u8], left: &AtomicU32) -> Result<bool> {
        let take = |left: u32| left.checked_sub(1);
        if left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
            return Ok(false);
        }
        (self.have, self.length, self.sent) = (0, None, Instant::now());
        // A request fits into an empty socket buffer.
        self.stream.write_all(request)?;
        Ok(true)
    }

    /// Reads available data; returns the latency once the response is complete.
    fn receive(&mut self) -> Result<Option<Duration>> {
        let room = self.response.get_mut(self.have..).context("room for the response")?;
        let read = match self.stream.read(room) {
            Ok(0) => anyhow::bail!("the server closed a connection, or its response is too long"),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        self.have += read;
        if self.length.is_none() {
            self.length = length(self.response.get(..self.have).unwrap_or_default())?;
        }
        Ok(self.length.filter(|length| *length <= self.have).map(|_| self.sent.elapsed()))
    }
}

/// Returns the length of a response with its head, once the head is complete. Anything but success is an error.
fn length(response: &[u8]) -> Result<Option<usize>> {
    let Some(end) = response.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(response.get(..end).unwrap_or_default())?;
    anyhow::ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then_some(value)
    });
    Ok(Some(end + 4 + length.context("a response without a length")?.parse::<usize>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_has_the_declared_length() {
        assert_eq!(length(b"HTTP/1.1 200 OK\r\nContent-Le").unwrap(), None);
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(length(whole).unwrap(), Some(whole.len()));
        assert!(length(b"HTTP/1.1 429 Too Many Requests\r\n\r\n").is_err());
    }
}
