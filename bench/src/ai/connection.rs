//! Connection of the load generator to a proxy: kept alive, with one call at a time, and watched by an epoll.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, epoll, poll};
use rustix::fd::{AsFd, OwnedFd};

use super::response::is_whole;

const BUFFER_BYTES: usize = 16 * 1024;
/// Connections that are looked at in one turn.
const EVENTS: usize = 64;

/// Connections that are watched.
pub(super) struct Connections {
    epoll: OwnedFd,
    /// `None` once it is closed.
    all: Vec<Option<Connection>>,
}

struct Connection {
    stream: TcpStream,
    response: Vec<u8>,
}

impl Connections {
    pub(super) fn new() -> Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?, all: Vec::new() })
    }

    /// Opens one more, and returns its index.
    pub(super) fn open(&mut self, address: SocketAddr) -> Result<usize> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let index = self.all.len();
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&self.epoll, stream.as_fd(), data, epoll::EventFlags::IN)?;
        self.all.push(Some(Connection { stream, response: Vec::new() }));
        Ok(index)
    }

    /// Closes an idle connection, before a proxy does.
    pub(super) fn close(&mut self, index: usize) {
        if let Some(connection) = self.all.get_mut(index) {
            *connection = None;
        }
    }

    /// Sends a request on an idle connection.
    pub(super) fn send(&mut self, index: usize, request: &[u8]) -> Result<()> {
        let connection = self.get(index)?;
        connection.response.clear();
        // A request fits into an empty socket buffer.
        Ok(connection.stream.write_all(request)?)
    }

    /// Waits for `timeout` at most. Returns the connections whose response is whole.
    pub(super) fn wait(&mut self, timeout: Duration) -> Result<Vec<usize>> {
        let timeout = timeout.try_into()?;
        // To the nanosecond; epoll's own timeout is in milliseconds.
        poll(&mut [PollFd::new(&self.epoll, PollFlags::IN)], Some(&timeout))?;
        let mut events = Vec::with_capacity(EVENTS);
        epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&Duration::ZERO.try_into()?),
        )?;
        let mut whole = Vec::new();
        for event in &events {
            let index = usize::try_from(event.data.u64())?;
            if self.get(index)?.receive()? {
                whole.push(index);
            }
        }
        Ok(whole)
    }

    fn get(&mut self, index: usize) -> Result<&mut Connection> {
        self.all.get_mut(index).and_then(Option::as_mut).context("a connection")
    }
}

impl Connection {
    /// Reads what is there. Returns true once the response is whole.
    fn receive(&mut self) -> Result<bool> {
        let mut buffer = [0; BUFFER_BYTES];
        let count = match self.stream.read(&mut buffer) {
            Ok(0) => anyhow::bail!("the proxy closed a connection"),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        self.response.extend_from_slice(buffer.get(..count).unwrap_or_default());
        is_whole(&self.response)
    }
}
