//! Splitter of an event stream (WHATWG HTML, "Server-sent events"): whole events as they came, so that nothing is written anew. An event
//! that is longer than the bound passes in parts.

use bytes::{Bytes, BytesMut};

/// Length of an event that is read, in bytes.
pub(crate) const MAX_EVENT_BYTES: usize = 1 << 20;

/// Piece of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// One event, up to the end of its empty line.
    Event {
        /// As it came.
        raw: Bytes,
        /// `data` fields, joined by line feeds; empty if there is none.
        data: Vec<u8>,
    },
    /// Part of an event that is too long to be read whole.
    Part {
        /// As it came.
        raw: Bytes,
        /// The event ends with it.
        is_last: bool,
    },
}

/// Splitter of one stream.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    buffer: BytesMut,
    /// Bytes at the front of `buffer` that have no end of an event in them.
    searched: usize,
    /// The event at the front is too long.
    is_unread: bool,
}

impl Splitter {
    /// Adds what has come.
    pub(crate) fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    /// Returns the next whole piece.
    pub(crate) fn next(&mut self) -> Option<Piece> {
        if let Some(end) = self.end_of_event() {
            let raw = self.buffer.split_to(end).freeze();
            self.searched = 0;
            if std::mem::take(&mut self.is_unread) {
                return Some(Piece::Part { raw, is_last: true });
            }
            let data = data(&raw);
            return Some(Piece::Event { raw, data });
        }
        if self.buffer.len() > MAX_EVENT_BYTES {
            self.is_unread = true;
            // The end may be two line breaks of which one has come.
            let raw = self.buffer.split_to(self.buffer.len() - 4).freeze();
            self.searched = 0;
            return Some(Piece::Part { raw, is_last: false });
        }
        None
    }

    /// Returns what has come of an event that has no end.
    pub(crate) fn rest(&mut self) -> Bytes {
        self.searched = 0;
        self.buffer.split().freeze()
    }

    /// Returns the index behind the first empty line. Lines end with LF, CR or both.
    fn end_of_event(&mut self) -> Option<usize> {
        let bytes = &self.buffer;
        let mut index = self.searched;
        while let Some(offset) = memchr::memchr2(b'\n', b'\r', bytes.get(index..)?) {
            let first = index + offset;
            let line_end = line_break(bytes, first)?;
            // A CR at the end of what has come may have its LF in the next chunk.
            match bytes.get(line_end) {
                Some(b'\n' | b'\r') => return line_break(bytes, line_end),
                Some(_) => index = line_end,
                None => {
                    self.searched = first;
                    return None;
                }
            }
        }
        self.searched = bytes.len();
        None
    }
}

/// Returns the index behind the line break at `index`, or none if it may go on in the next chunk.
fn line_break(bytes: &[u8], index: usize) -> Option<usize> {
    match (bytes.get(index)?, bytes.get(index + 1)) {
        (b'\r', Some(b'\n')) => Some(index + 2),
        (b'\r', None) => None,
        _ => Some(index + 1),
    }
}

/// Returns the `data` fields of an event. Its name says nothing that is not in them.
fn data(raw: &[u8]) -> Vec<u8> {
    let (mut data, mut has_data) = (Vec::new(), false);
    for line in raw.split(|byte| matches!(byte, b'\n' | b'\r')) {
        let (field, value) = match memchr::memchr(b':', line) {
            Some(colon) => {
                let value = line.get(colon + 1..).unwrap_or_default();
                (line.get(..colon).unwrap_or_default(), value.strip_prefix(b" ").unwrap_or(value))
            }
            None => (line, &[][..]),
        };
        if field != b"data" {
            continue;
        }
        if has_data {
            data.push(b'\n');
        }
        has_data = true;
        data.extend_from_slice(value);
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(chunks: &[&[u8]]) -> (Vec<String>, Vec<u8>, Vec<u8>) {
        let (mut splitter, mut events, mut passed) = (Splitter::default(), Vec::new(), Vec::new());
        for chunk in chunks {
            splitter.push(chunk);
            while let Some(piece) = splitter.next() {
                match piece {
                    Piece::Event { raw, data } => {
                        passed.extend_from_slice(&raw);
                        events.push(String::from_utf8(data).unwrap());
                    }
                    Piece::Part { raw, .. } => passed.extend_from_slice(&raw),
                }
            }
        }
        (events, passed, splitter.rest().to_vec())
    }

    const STREAM: &[u8] = b"event: a\ndata: 1\ndata:2\n\n: comment\r\n\r\ndata: {\"x\":\"\xc3\xa4\"}\r\rid: 7\ndata\n\nevent: cut\nda";

    #[test]
    fn events_are_the_same_wherever_the_stream_is_cut() {
        let expected = split(&[STREAM]);
        assert_eq!(expected.0, ["1\n2", "", "{\"x\":\"ä\"}", ""]);
        assert_eq!(expected.2, b"event: cut\nda");
        for cut in 1..STREAM.len() {
            let (left, right) = STREAM.split_at(cut);
            let cut_once = split(&[left, right]);
            assert_eq!((&cut_once.0, &cut_once.2), (&expected.0, &expected.2), "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = STREAM.chunks(1).collect();
        assert_eq!(split(&bytes).0, expected.0);
    }

    #[test]
    fn all_bytes_pass_also_those_of_an_event_that_is_too_long() {
        let long = vec![b'x'; MAX_EVENT_BYTES + 50];
        let stream = [b"data: 1\n\ndata: ", long.as_slice(), b"\n\ndata: 2\n\n"].concat();
        for size in [1000, 4096, stream.len()] {
            let chunks: Vec<&[u8]> = stream.chunks(size).collect();
            let (events, passed, rest) = split(&chunks);
            assert_eq!([passed, rest].concat(), stream);
            let data: Vec<_> = events.iter().map(String::len).filter(|length| *length < 10).collect();
            assert_eq!(data, [1, 1], "pieces of {size}");
        }
    }
}
