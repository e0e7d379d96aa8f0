//! Head of an HTTP/1 request (RFC 9112, 2 to 6), parsed line by line.

use http::Uri;
use memchr::memchr;

/// Maximum number of fields of a head.
const MAX_FIELDS: usize = 100;
/// Maximum length of an address in bytes; the library's is just above.
const MAX_ADDRESS_BYTES: usize = 65_000;

pub(super) const TOO_MANY_FIELDS: MalformedReason = "there are more than 100 headers";
pub(super) const ADDRESS_TOO_LONG: MalformedReason = "the address is too long";
pub(super) const UNSUPPORTED_VERSION: MalformedReason = "the version is neither HTTP/1.1 nor HTTP/1.0";
const BAD_ADDRESS: MalformedReason =
    "the address has a character that must be percent-encoded, such as `\"`, `<`, `>` or one beyond ASCII";

/// Framing of what follows a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// The next head.
    Nothing,
    /// A body of this length.
    Bytes(u64),
    /// A chunked body.
    Chunked,
    /// Depends on the response to `Upgrade`.
    Response,
}

/// Parser of a head.
#[derive(Debug, Default)]
pub(super) struct Head {
    /// Offset of the next line.
    at: usize,
    /// True if the request line has been parsed.
    started: bool,
    fields: usize,
    old: bool,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
}

type MalformedReason = &'static str;

impl Head {
    /// Parses `bytes`, which start with the head's first byte. Returns the head's length and framing once it
    /// is complete.
    pub(super) fn parse(&mut self, bytes: &[u8]) -> Result<Option<(usize, Framing)>, MalformedReason> {
        loop {
            let rest = bytes.get(self.at..).unwrap_or_default();
            let Some(end) = memchr(b'\n', rest) else { return Ok(None) };
            let line = rest.get(..end).and_then(|line| line.strip_suffix(b"\r"));
            let line = line.ok_or("a header line does not end with CR LF")?;
            if memchr(b'\r', line).is_some() {
                return Err("a header line contains a bare CR");
            }
            self.at += end + 1;
            match (self.started, line.is_empty()) {
                // Empty lines before a request are to be ignored (RFC 9112, 2.2).
                (false, true) if self.at <= 4 => {}
                (false, true) => return Err("it starts with empty lines"),
                (false, false) => self.request_line(line)?,
                (true, false) => self.field(line)?,
                (true, true) => return Ok(Some((self.at, self.framing()?))),
            }
        }
    }

    fn request_line(&mut self, line: &[u8]) -> Result<(), MalformedReason> {
        self.started = true;
        let mut words = line.split(|byte| *byte == b' ');
        let (method, target, version) = (words.next(), words.next(), words.next());
        let whole =
            words.next().is_none() && target.is_some_and(|target| !target.is_empty()) && version.is_some();
        if !whole || !method.is_some_and(is_token) {
            return Err("the request line is not a method, a target and a version");
        }
        if method == Some(b"CONNECT") {
            return Err("CONNECT is not supported");
        }
        self.old = match version {
            Some(b"HTTP/1.1") => false,
            Some(b"HTTP/1.0") => true,
            Some(other) if other.starts_with(b"HTTP/") => return Err(UNSUPPORTED_VERSION),
            _ => return Err("the request line does not end with a version"),
        };
        match target {
            Some(target) if target.len() > MAX_ADDRESS_BYTES => return Err(ADDRESS_TOO_LONG),
            // The library would refuse it without a word.
            Some(target) if !is_plain_path(target) && Uri::try_from(target).is_err() => {
                return Err(BAD_ADDRESS);
            }
            _ => {}
        }
        Ok(())
    }

    /// Returns whether the address is still being read.
    pub(super) fn is_in_address(&self) -> bool {
        !self.started
    }

    fn field(&mut self, line: &[u8]) -> Result<(), MalformedReason> {
        self.fields += 1;
        if self.fields > MAX_FIELDS {
            return Err(TOO_MANY_FIELDS);
        }
        let (name, value) = memchr(b':', line)
            .and_then(|colon| Some((line.get(..colon)?, line.get(colon + 1..)?)))
            .ok_or("a header has no colon")?;
        if !is_token(name) {
            return Err("a header name is invalid, or a header is folded over several lines");
        }
        if value.iter().any(|byte| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f) {
            return Err("a header contains control characters");
        }
        let value = value.trim_ascii();
        if name.eq_ignore_ascii_case(b"content-length") {
            if self.length.is_some() {
                return Err("there is more than one Content-Length");
            }
            self.length = Some(number(value).ok_or("the Content-Length is not a number")?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err("the Transfer-Encoding is not `chunked`");
            }
            self.chunked = true;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.upgrade = true;
        }
        Ok(())
    }

    fn framing(&self) -> Result<Framing, MalformedReason> {
        match (self.chunked, self.length) {
            (true, Some(_)) => Err("there are both Content-Length and Transfer-Encoding"),
            (true, None) if self.old => Err("there is a Transfer-Encoding, which HTTP/1.0 does not have"),
            (true, None) => Ok(Framing::Chunked),
            (false, None | Some(0)) if self.upgrade => Ok(Framing::Response),
            (false, None | Some(0)) => Ok(Framing::Nothing),
            (false, Some(length)) => Ok(Framing::Bytes(length)),
        }
    }
}

/// Returns whether every parser takes `target` for a path. Any other is given to the library's parser.
fn is_plain_path(target: &[u8]) -> bool {
    let symbol = |byte: &u8| b"-._~!$&'()*+,;=:@/?%[]".contains(byte);
    target.first() == Some(&b'/') && target.iter().all(|byte| byte.is_ascii_alphanumeric() || symbol(byte))
}

/// Parses a number that consists of digits only.
fn number(text: &[u8]) -> Option<u64> {
    let digits = (1..=18).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}

/// Returns whether `text` is a token (RFC 9110, 5.6.2).
fn is_token(text: &[u8]) -> bool {
    let symbol = |byte: &u8| b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || symbol(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(head: &str) -> Result<Option<(usize, Framing)>, MalformedReason> {
        Head::default().parse(head.as_bytes())
    }

    #[test]
    fn head_has_one_reading_or_is_refused() {
        for (head, framing) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Framing::Nothing),
            ("\r\nGET / HTTP/1.1\r\n\r\n", Framing::Nothing),
            ("GET / HTTP/1.0\r\n\r\n", Framing::Nothing),
            ("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", Framing::Bytes(5)),
            ("POST / HTTP/1.1\r\nContent-Length:0\r\n\r\n", Framing::Nothing),
            ("POST / HTTP/1.1\r\ntransfer-encoding:\tChunked \r\n\r\n", Framing::Chunked),
            ("GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", Framing::Response),
            ("POST / HTTP/1.1\r\nUpgrade: x\r\nContent-Length: 5\r\n\r\n", Framing::Bytes(5)),
        ] {
            assert_eq!(read(head), Ok(Some((head.len(), framing))), "{head:?}");
            for end in 0..head.len() {
                assert_eq!(read(&head[..end]), Ok(None), "{:?}", &head[..end]);
            }
        }
    }

    #[test]
    fn ambiguous_head_is_refused() {
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
            "GET /?j={\"a\":1} HTTP/1.1\r\n\r\n",
            "GET /< HTTP/1.1\r\n\r\n",
            "GET http://[/ HTTP/1.1\r\n\r\n",
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
