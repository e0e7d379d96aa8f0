//! Client of apps over a plain socket, with full control over its requests.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Port of edge.
pub(crate) const PORT: u16 = 7080;
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);

/// Client of one app, with headers for every request.
#[derive(Debug, Clone)]
pub(crate) struct Visitor {
    host: String,
    headers: Vec<(String, String)>,
}

/// Response of an app, or of edge.
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

    /// Returns the value that a cookie was set to.
    pub(crate) fn cookie(&self, name: &str) -> Option<String> {
        self.cookies().find(|(own, _)| own == name).map(|(_, value)| value)
    }

    /// Returns the name and value of a cookie that the response sets under a name with this prefix.
    pub(crate) fn cookie_like(&self, prefix: &str) -> Option<(String, String)> {
        self.cookies().find(|(own, _)| own.starts_with(prefix))
    }

    /// Returns the cookies that the response sets.
    fn cookies(&self) -> impl Iterator<Item = (String, String)> + '_ {
        let set = self.headers.iter().filter(|(own, _)| own == "set-cookie");
        let pairs = set.filter_map(|(_, value)| value.split(';').next()?.split_once('='));
        pairs.filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name.to_owned(), value.to_owned()))
    }
}

impl Visitor {
    /// Returns a client of the app of this name.
    pub(crate) fn new(app: &str) -> Self {
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
        let mut stream = TcpStream::connect(("127.0.0.1", PORT)).context("edge is not listening")?;
        stream.set_read_timeout(Some(RESPONSE_TIMEOUT))?;
        let headers: String =
            self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", self.host)?;
        Ok(BufReader::new(stream))
    }

    /// Requests a path, and returns the response.
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

    /// Requests a path whose body is a stream.
    pub(crate) fn open(&self, path: &str) -> Result<OpenStream> {
        let mut stream = self.send(path)?;
        let (status, _) = head(&mut stream)?;
        ensure!(status == 200, "{} {path}: {status}", self.host);
        Ok(OpenStream(stream))
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

/// Reads a chunked body (RFC 9112, section 7.1).
fn chunks(stream: &mut BufReader<TcpStream>, body: &mut Vec<u8>) -> Result<usize> {
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let length =
            u64::from_str_radix(line.trim(), 16).with_context(|| format!("not a chunk: {line:?}"))?;
        stream.by_ref().take(length).read_to_end(body)?;
        stream.read_line(&mut line)?;
        if length == 0 {
            return Ok(body.len());
        }
    }
}

/// Response body without an end.
pub(crate) struct OpenStream(BufReader<TcpStream>);

impl OpenStream {
    /// Waits for new data; an end is an error.
    pub(crate) fn read_some(&mut self) -> Result<()> {
        // Buffered data may be old.
        let waiting = self.0.buffer().len();
        self.0.consume(waiting);
        let mut byte = [0];
        ensure!(self.0.read(&mut byte)? == 1, "the stream ended");
        Ok(())
    }

    /// Reads until the stream ends or breaks.
    pub(crate) fn read_to_end(&mut self, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        let mut buffer = [0; 4096];
        while Instant::now() < deadline {
            match self.0.read(&mut buffer) {
                Ok(0) | Err(_) => return Ok(()),
                Ok(_) => {}
            }
        }
        anyhow::bail!("the stream did not end within {within:?}")
    }
}
