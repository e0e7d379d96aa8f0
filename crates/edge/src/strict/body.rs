//! A body in chunks (RFC 9112, 7.1): where it ends, and that there is one way to read it.

/// Longest line of a size with its extensions, and of a trailer.
const LONGEST_LINE: usize = 8 * 1024;
/// All trailers together.
const TRAILERS: usize = 64 * 1024;

#[derive(Debug, Default)]
enum Place {
    #[default]
    Size,
    Data(u64),
    /// The CR LF after the data.
    End,
    Trailers,
}

/// How far a body in chunks has been read.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    place: Place,
    line: Vec<u8>,
    trailers: usize,
}

type Problem = &'static str;

impl Chunked {
    /// Goes on with `bytes`: how many are this body's, and whether it has ended.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(usize, bool), Problem> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            if let Place::Data(left) = &mut self.place {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                *left -= taken as u64;
                at += taken;
                if *left == 0 {
                    self.place = Place::End;
                }
                continue;
            }
            let end = memchr::memchr(b'\n', rest);
            let taken = end.map_or(rest.len(), |end| end + 1);
            at += taken;
            self.line.extend_from_slice(rest.get(..taken).unwrap_or_default());
            if self.line.len() > LONGEST_LINE {
                return Err("a line between chunks is too long");
            }
            if end.is_some() && self.line_ends()? {
                return Ok((at, true));
            }
        }
        Ok((at, false))
    }

    /// Whether the body ends with this line.
    fn line_ends(&mut self) -> Result<bool, Problem> {
        let line = std::mem::take(&mut self.line);
        let line = line.strip_suffix(b"\r\n").ok_or("a line between chunks does not end with CR LF")?;
        if line.contains(&b'\r') {
            return Err("a CR stands within a line between chunks");
        }
        self.place = match self.place {
            Place::Size => match size(line).ok_or("the size of a chunk is no number")? {
                0 => Place::Trailers,
                size => Place::Data(size),
            },
            Place::End if line.is_empty() => Place::Size,
            Place::End => return Err("a chunk is longer than its size"),
            Place::Trailers if line.is_empty() => return Ok(true),
            Place::Trailers | Place::Data(_) => {
                self.trailers += line.len();
                if self.trailers > TRAILERS {
                    return Err("its trailers are too long");
                }
                Place::Trailers
            }
        };
        Ok(false)
    }
}

fn size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
    // Blanks may stand before an extension only (RFC 9112, 7.1.1).
    let digits = if digits.len() < line.len() { digits.trim_ascii_end() } else { digits };
    let fits = (1..=15).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    u64::from_str_radix(std::str::from_utf8(digits).ok().filter(|_| fits)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Read in one piece and byte by byte, which has to be the same.
    fn read(body: &str) -> Result<Option<usize>, Problem> {
        let whole = Chunked::default().take(body.as_bytes()).map(|(at, ended)| ended.then_some(at));
        let mut chunked = Chunked::default();
        let mut single = Ok(None);
        for (at, byte) in body.bytes().enumerate() {
            match chunked.take(&[byte]) {
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
    fn the_end_of_a_body_is_found() {
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
    fn what_could_end_elsewhere_is_refused() {
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
