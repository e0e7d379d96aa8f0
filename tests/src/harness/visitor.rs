//! Somebody who asks an app over a socket of their own, byte for byte as they want it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Where the edge listens.
pub(crate) const PORT: u16 = 7080;
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Headers that every request has.
#[derive(Debug, Clone)]
pub(crate) struct Visitor {
    host: String,
    headers: Vec<(String, String)>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct AppResponse {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl AppResponse {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// The value that a cookie was set to.
    pub(crate) fn cookie(&self, name: &str) -> Option<String> {
        let set = self.headers.iter().filter(|(own, _)| own == "set-cookie");
        let mut pairs = set.filter_map(|(_, value)| value.split(';').next()?.split_once('='));
        pairs.find(|(own, value)| *own == name && !value.is_empty()).map(|(_, value)| value.to_owned())
    }
}

impl Visitor {
    /// Of the app of this name.
    pub(crate) fn of(app: &str) -> Self {
        Self { host: format!("{app}.rigbox.localhost:{PORT}"), headers: Vec::new() }
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn with_key(&self, key: &str) -> Self {
        self.clone().with("X-Rigbox-Key", key)
    }

    fn send(&self, path: &str) -> Result<BufReader<TcpStream>> {
        let mut stream = TcpStream::connect(("127.0.0.1", PORT)).context("the edge does not listen")?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        let headers: String =
            self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", self.host)?;
        Ok(BufReader::new(stream))
    }

    /// The whole answer, as far as its head says how long it is.
    pub(crate) fn get(&self, path: &str) -> Result<AppResponse> {
        let mut stream = self.send(path)?;
        let (status, headers) = head(&mut stream).with_context(|| format!("{} {path}", self.host))?;
        let length =
            headers.iter().find(|(name, _)| name == "content-length").map(|(_, value)| value.parse());
        let mut body = Vec::new();
        match length {
            Some(length) => stream.take(length?).read_to_end(&mut body)?,
            None if status == 304 || status == 204 || status == 101 => 0,
            None => chunks(&mut stream, &mut body)?,
        };
        Ok(AppResponse { status, headers, body: String::from_utf8_lossy(&body).into_owned() })
    }

    /// A body that has no end.
    pub(crate) fn open(&self, path: &str) -> Result<Open> {
        let mut stream = self.send(path)?;
        let (status, _) = head(&mut stream)?;
        ensure!(status == 200, "{} {path}: {status}", self.host);
        Ok(Open(stream))
    }
}

fn head(stream: &mut BufReader<TcpStream>) -> Result<(u16, Vec<(String, String)>)> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let status = line.split(' ').nth(1).with_context(|| format!("no status line: {line:?}"))?.parse()?;
    let mut headers = Vec::new();
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.trim().to_owned())),
            None => return Ok((status, headers)),
        }
    }
}

/// RFC 9112, section 7.1.
fn chunks(stream: &mut BufReader<TcpStream>, body: &mut Vec<u8>) -> Result<usize> {
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let length = u64::from_str_radix(line.trim(), 16).with_context(|| format!("no chunk: {line:?}"))?;
        stream.by_ref().take(length).read_to_end(body)?;
        stream.read_line(&mut line)?;
        if length == 0 {
            return Ok(body.len());
        }
    }
}

/// A stream that goes on.
pub(crate) struct Open(BufReader<TcpStream>);

impl Open {
    /// Something new; an end is an error.
    pub(crate) fn read_some(&mut self) -> Result<()> {
        // What has come already says nothing of now.
        let waiting = self.0.buffer().len();
        self.0.consume(waiting);
        let mut byte = [0];
        ensure!(self.0.read(&mut byte)? == 1, "the stream ended");
        Ok(())
    }

    /// Reads until the stream ends, however it does.
    pub(crate) fn read_to_end(&mut self, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        let mut buffer = [0; 4096];
        while Instant::now() < deadline {
            match self.0.read(&mut buffer) {
                Ok(0) | Err(_) => return Ok(()),
                Ok(_) => {}
            }
        }
        anyhow::bail!("it did not end within {within:?}")
    }
}
