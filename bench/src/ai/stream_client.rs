//! Client of streams: one at a time on a kept-alive connection, or one that stays open.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::message::{self, FIRST_TOKEN, Kind};
use super::response::{is_whole, split};

/// Limit for a read.
const READ_TIMEOUT: Duration = Duration::from_secs(20);
const BUFFER_BYTES: usize = 16 * 1024;

/// Connection for streams.
pub(super) struct StreamClient {
    stream: TcpStream,
    request: Vec<u8>,
    response: Vec<u8>,
}

impl StreamClient {
    pub(super) fn open(address: SocketAddr) -> Result<Self> {
        Self::for_kind(address, Kind::Stream)
    }

    fn for_kind(address: SocketAddr, kind: Kind) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        Ok(Self { stream, request: message::request(kind), response: Vec::new() })
    }

    /// Takes a stream to its end. Returns the time until its first token.
    pub(super) fn first_token(&mut self) -> Result<Duration> {
        let started = Instant::now();
        self.send_until_token()?;
        let took = started.elapsed();
        while !is_whole(&self.response)? {
            self.read()?;
        }
        Ok(took)
    }

    fn send_until_token(&mut self) -> Result<()> {
        self.response.clear();
        self.stream.write_all(&self.request)?;
        while split(&self.response, FIRST_TOKEN).is_none() {
            ensure!(!is_whole(&self.response)?, "a stream without a token");
            self.read()?;
        }
        Ok(())
    }

    fn read(&mut self) -> Result<()> {
        let mut buffer = [0; BUFFER_BYTES];
        let count = self.stream.read(&mut buffer)?;
        ensure!(count > 0, "the proxy closed a connection");
        self.response.extend_from_slice(buffer.get(..count).unwrap_or_default());
        Ok(())
    }
}

/// Opens `count` streams, which stay open after their first token until they are dropped.
pub(super) fn hold(address: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    let open = |_| {
        let mut client = StreamClient::for_kind(address, Kind::HeldStream)?;
        client.send_until_token()?;
        Ok(client.stream)
    };
    (0..count).map(open).collect()
}
