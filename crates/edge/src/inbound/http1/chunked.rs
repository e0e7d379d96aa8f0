//! Chunked body (RFC 9112, 7.1): finds its end, and refuses what could be read in two ways.

/// Maximum length of a chunk-size line with its extensions, and of a trailer.
const MAX_LINE_BYTES: usize = 8 * 1024;
/// Maximum size of all trailers.
const MAX_TRAILER_BYTES: usize = 64 * 1024;

#[derive(Debug, Default)]
enum State {
    #[default]
    Size,
    Data(u64),
    /// The CR LF after the data.
    End,
    Trailers,
}

/// Parser of a chunked body.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    state: State,
    line: Vec<u8>,
    trailers: usize,
}

type MalformedReason = &'static str;

impl Chunked {
    /// Parses `bytes`. Returns how many belong to the body, and whether it has ended.
    pub(super) fn parse(&mut self, bytes: &[u8]) -> Result<(usize, bool), MalformedReason> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            if let State::Data(left) = &mut self.state {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                *left -= taken as u64;
                at += taken;
                if *left == 0 {
                    self.state = State::End;
                }
                continue;
            }
            let end = memchr::memchr(b'\n', rest);
            let taken = end.map_or(rest.len(), |end| end + 1);
            at += taken;
            self.line.extend_from_slice(rest.get(..taken).unwrap_or_default());
            if self.line.len() > MAX_LINE_BYTES {
                return Err("a chunk line is too long");
            }
            if end.is_some() && self.line_ends()? {
                return Ok((at, true));
            }
        }
        Ok((at, false))
    }

    /// Parses a line. Returns whether the body ends with it.
    fn line_ends(&mut self) -> Result<bool, MalformedReason> {
        let line = std::mem::take(&mut self.line);
        let line = line.strip_suffix(b"\r\n").ok_or("a chunk line does not end with CR LF")?;
        if line.contains(&b'\r') {
            return Err("a chunk line contains a bare CR");
        }
        self.state = match self.state {
            State::Size => match size(line).ok_or("a chunk size is not a number")? {
                0 => State::Trailers,
                size => State::Data(size),
            },
            State::End if line.is_empty() => State::Size,
            State::End => return Err("a chunk is longer than its size"),
            State::Trailers if line.is_empty() => return Ok(true),
            State::Trailers | State::Data(_) => {
                self.trailers += line.len();
                if self.trailers > MAX_TRAILER_BYTES {
                    return Err("the trailers are too long");
                }
                State::Trailers
            }
        };
        Ok(false)
    }
}

fn size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
    // Whitespace is allowed only before an extension (RFC 9112, 7.1.1).
    let digits = if digits.len() < line.len() { digits.trim_ascii_end() } else { digits };
    let fits = (1..=15).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    u64::from_str_radix(std::str::from_utf8(digits).ok().filter(|_| fits)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses in one piece and byte by byte, which has to give the same result.
    fn read(body: &str) -> Result<Option<usize>, MalformedReason> {
        let whole = Chunked::default().parse(body.as_bytes()).map(|(at, ended)| ended.then_some(at));
        let mut chunked = Chunked::default();
        let mut single = Ok(None);
        for (at, byte) in body.bytes().enumerate() {
            match chunked.parse(&[byte]) {
                Ok((_, false)) => {}
                Ok((_, true)) => {
                    single = Ok(Some(at + 1));
                    break;
                }
                Err(problem) => {
                    single = Err(problem);
                    break;
                }
            }
        }
        assert_eq!(whole, single, "{body:?}");
        whole
    }

    #[test]
    fn end_of_body_is_found() {
        for body in [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n",
            "A\r\n0\r\n\r\n01234\r\n0\r\n\r\n",
        ] {
            assert_eq!(read(&format!("{body}GET /")), Ok(Some(body.len())), "{body:?}");
        }
        assert_eq!(read("5\r\nhel"), Ok(None));
    }

    #[test]
    fn ambiguous_body_length_is_refused() {
        for body in [
            "5\nhello\r\n0\r\n\r\n",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "0x5\r\nhello\r\n0\r\n\r\n",
            "+5\r\nhello\r\n",
            "-1\r\n",
            "\r\nhello\r\n",
            "5 \r\nhello\r\n",
            "ffffffffffffffffff\r\n",
            "5;a\rb\r\nhello\r\n",
            "0\r\nX: y\n\r\n",
        ] {
            assert!(read(body).is_err(), "{body:?}");
        }
    }
}
