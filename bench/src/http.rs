//! Minimal blocking HTTP client: the threads and buffers of a library would be measured too.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result};

/// The API answers a wait after 120 s at the latest.
const READ_TIMEOUT: Duration = Duration::from_secs(180);

/// Kept-alive connection to the API.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    port: u16,
    key: String,
}

/// The response's body; to be read to its end before the next request.
pub(crate) struct Body<'a> {
    stream: &'a mut BufReader<TcpStream>,
    /// Bytes until the end, or until the next chunk's size.
    left: u64,
    chunked: bool,
    started: bool,
}

impl Connection {
    pub(crate) fn open(port: u16, key: &str) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        Ok(Self { stream: BufReader::with_capacity(64 * 1024, stream), port, key: key.to_owned() })
    }

    /// Sends a request and reads the response's head.
    pub(crate) fn send(&mut self, method: &str, path: &str, body: &[u8]) -> Result<(u16, Body<'_>)> {
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost:{}\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.port,
            self.key,
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        self.stream.get_mut().write_all(&request)?;
        let status = self.line()?;
        let status = status.split(' ').nth(1).context("not an HTTP response")?.parse()?;
        let (mut left, mut chunked) = (0, false);
        loop {
            let line = self.line()?.to_ascii_lowercase();
            match line.split_once(": ") {
                None => break,
                Some(("content-length", length)) => left = length.parse()?,
                Some(("transfer-encoding", encoding)) => chunked = encoding == "chunked",
                Some(_) => {}
            }
        }
        Ok((status, Body { stream: &mut self.stream, left, chunked, started: false }))
    }

    /// As [`Self::send`], for a response of JSON; anything but success is an error.
    pub(crate) fn json(&mut self, method: &str, path: &str, body: &[u8]) -> Result<serde_json::Value> {
        let (status, mut response) = self.send(method, path, body)?;
        let mut text = String::new();
        response.read_to_string(&mut text)?;
        anyhow::ensure!((200..300).contains(&status), "{method} {path}: {status}: {text}");
        Ok(serde_json::from_str(&text)?)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        anyhow::ensure!(self.stream.read_line(&mut line)? > 0, "the API closed the connection");
        Ok(line.trim_end().to_owned())
    }
}

impl Body<'_> {
    /// Reads the size of the next chunk; 0 is the end.
    fn next_chunk(&mut self) -> std::io::Result<()> {
        let mut line = String::new();
        if self.started {
            self.stream.read_line(&mut line)?;
            line.clear();
        }
        self.started = true;
        self.stream.read_line(&mut line)?;
        self.left = u64::from_str_radix(line.trim_end(), 16).map_err(std::io::Error::other)?;
        if self.left == 0 {
            self.chunked = false;
            self.stream.read_line(&mut line)?;
        }
        Ok(())
    }
}

impl Read for Body<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 && self.chunked {
            self.next_chunk()?;
        }
        let count = (&mut self.stream).take(self.left).read(into)?;
        if count == 0 && self.left > 0 && !into.is_empty() {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count as u64;
        Ok(count)
    }
}
