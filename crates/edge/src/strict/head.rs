//! The head of one HTTP/1 request (RFC 9112, 2 to 6), line by line.

use memchr::memchr;

/// What comes after a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Follows {
    /// The next head.
    Nothing,
    /// A body of so many bytes.
    Bytes(u64),
    /// A body in chunks.
    Chunks,
    /// Whatever the answer to `Upgrade` says.
    Answer,
}

/// How far a head has been read.
#[derive(Debug, Default)]
pub(super) struct Head {
    /// Where the next line begins.
    at: usize,
    /// Whether the request line has been there.
    begun: bool,
    old: bool,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
}

type Problem = &'static str;

impl Head {
    /// Goes on in `bytes`, which are this head's from its first byte on; its length and what follows, once it is whole.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<Option<(usize, Follows)>, Problem> {
        loop {
            let rest = bytes.get(self.at..).unwrap_or_default();
            let Some(end) = memchr(b'\n', rest) else { return Ok(None) };
            let line = rest.get(..end).and_then(|line| line.strip_suffix(b"\r"));
            let line = line.ok_or("a line of its head does not end with CR LF")?;
            if memchr(b'\r', line).is_some() {
                return Err("a CR stands within a line of its head");
            }
            self.at += end + 1;
            match (self.begun, line.is_empty()) {
                // An empty line before a request is no part of it (RFC 9112, 2.2).
                (false, true) if self.at <= 4 => {}
                (false, true) => return Err("it begins with empty lines"),
                (false, false) => self.request_line(line)?,
                (true, false) => self.field(line)?,
                (true, true) => return Ok(Some((self.at, self.follows()?))),
            }
        }
    }

    fn request_line(&mut self, line: &[u8]) -> Result<(), Problem> {
        self.begun = true;
        let mut words = line.split(|byte| *byte == b' ');
        let (method, target, version) = (words.next(), words.next(), words.next());
        let whole = words.next().is_none() && target.is_some_and(|target| !target.is_empty());
        if !whole || !method.is_some_and(is_token) {
            return Err("its request line is not a method, an address and a version");
        }
        if method == Some(b"CONNECT") {
            return Err("CONNECT is not supported");
        }
        self.old = match version {
            Some(b"HTTP/1.1") => false,
            Some(b"HTTP/1.0") => true,
            _ => return Err("its version is neither HTTP/1.1 nor HTTP/1.0"),
        };
        Ok(())
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Problem> {
        let (name, value) = memchr(b':', line)
            .and_then(|colon| Some((line.get(..colon)?, line.get(colon + 1..)?)))
            .ok_or("a header has no colon")?;
        if !is_token(name) {
            return Err("the name of a header is none, or a header goes over several lines");
        }
        if value.iter().any(|byte| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f) {
            return Err("a header has control characters");
        }
        let value = value.trim_ascii();
        if name.eq_ignore_ascii_case(b"content-length") {
            if self.length.is_some() {
                return Err("it has more than one Content-Length");
            }
            self.length = Some(number(value).ok_or("its Content-Length is no number")?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err("its Transfer-Encoding is not `chunked`");
            }
            self.chunked = true;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.upgrade = true;
        }
        Ok(())
    }

    fn follows(&self) -> Result<Follows, Problem> {
        match (self.chunked, self.length) {
            (true, Some(_)) => Err("it has both Content-Length and Transfer-Encoding"),
            (true, None) if self.old => Err("it has a Transfer-Encoding, which HTTP/1.0 does not know"),
            (true, None) => Ok(Follows::Chunks),
            (false, None | Some(0)) if self.upgrade => Ok(Follows::Answer),
            (false, None | Some(0)) => Ok(Follows::Nothing),
            (false, Some(length)) => Ok(Follows::Bytes(length)),
        }
    }
}

/// Digits and nothing else.
fn number(text: &[u8]) -> Option<u64> {
    let digits = (1..=18).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}

/// RFC 9110, 5.6.2.
fn is_token(text: &[u8]) -> bool {
    let symbol = |byte: &u8| b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || symbol(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(head: &str) -> Result<Option<(usize, Follows)>, Problem> {
        Head::default().take(head.as_bytes())
    }

    #[test]
    fn one_reading_of_a_head_or_none() {
        for (head, follows) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Follows::Nothing),
            ("\r\nGET / HTTP/1.1\r\n\r\n", Follows::Nothing),
            ("GET / HTTP/1.0\r\n\r\n", Follows::Nothing),
            ("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", Follows::Bytes(5)),
            ("POST / HTTP/1.1\r\nContent-Length:0\r\n\r\n", Follows::Nothing),
            ("POST / HTTP/1.1\r\ntransfer-encoding:\tChunked \r\n\r\n", Follows::Chunks),
            ("GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", Follows::Answer),
            ("POST / HTTP/1.1\r\nUpgrade: x\r\nContent-Length: 5\r\n\r\n", Follows::Bytes(5)),
        ] {
            assert_eq!(read(head), Ok(Some((head.len(), follows))), "{head:?}");
            for end in 0..head.len() {
                assert_eq!(read(&head[..end]), Ok(None), "{:?}", &head[..end]);
            }
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_not_read() {
        for lines in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
            "Content-Length: 5\r\nContent-Length: 5",
            "Content-Length: 5\r\nContent-Length: 6",
            "Content-Length: 5, 5",
            "Content-Length: +5",
            "Content-Length: 0x5",
            "Content-Length: -1",
            "Content-Length: ",
            "Content-Length: 99999999999999999999",
            "Content-Length : 5",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: \u{b}chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding\r\n : chunked",
            " Transfer-Encoding: chunked",
            "X: a\r\n b",
            "X: a\r\n\tTransfer-Encoding: chunked",
            "X: a\nTransfer-Encoding: chunked",
            "X: a\rTransfer-Encoding: chunked",
            "X: a\0",
            ": a",
            "no colon",
        ] {
            let head = format!("POST / HTTP/1.1\r\n{lines}\r\n\r\n");
            assert!(read(&head).is_err(), "{head:?}");
        }
        for head in [
            "GET / HTTP/1.1\n\n",
            "GET /\r\n\r\n",
            "GET / HTTP/2.0\r\n\r\n",
            "GET  / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1 \r\n\r\n",
            "G@T / HTTP/1.1\r\n\r\n",
            "CONNECT a:80 HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            "\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        ] {
            assert!(read(head).is_err(), "{head:?}");
        }
    }
}
