//! Where a command's output goes: as it is to our own stdout and stderr, or as events.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncWriteExt, Stderr, Stdout, stderr, stdout};

use super::end::{End, Said};
use crate::failure::Failure;
use crate::output::{Event, Format, Output, Piece};

/// For one command.
pub(super) struct Sink<'a> {
    out: &'a Output,
    // Not the blocking ones: while nobody reads our output, signals must still get through.
    stdout: Stdout,
    stderr: Stderr,
    /// The beginning of a character of which the rest has not come yet.
    halves: [Vec<u8>; 2],
}

#[derive(Debug, Clone, Copy)]
enum Stream {
    Stdout,
    Stderr,
}

impl<'a> Sink<'a> {
    pub(super) fn new(out: &'a Output) -> Self {
        Self { out, stdout: stdout(), stderr: stderr(), halves: [Vec::new(), Vec::new()] }
    }

    /// Takes what the server said; the end, when that was it.
    pub(super) async fn take(&mut self, text: &[u8]) -> Result<Option<End>, Failure> {
        let said: Said<'_> = serde_json::from_slice(text).map_err(|error| {
            Failure::new("unexpected_answer", format!("the server says what no Rigbox server says: {error}"))
        })?;
        let stream = match said.stream {
            Some("stdout") => Stream::Stdout,
            Some("stderr") => Stream::Stderr,
            _ => return Ok(said.end()),
        };
        let data = STANDARD.decode(said.data_b64.unwrap_or_default()).map_err(|error| {
            Failure::new("unexpected_answer", format!("output of the command came damaged: {error}"))
        })?;
        match (self.out.format(), stream) {
            (Format::Text, Stream::Stdout) => {
                self.stdout.write_all(&data).await?;
                self.stdout.flush().await?;
            }
            (Format::Text, Stream::Stderr) => {
                self.stderr.write_all(&data).await?;
                self.stderr.flush().await?;
            }
            (Format::Json, stream) => self.tell(stream, data)?,
        }
        Ok(None)
    }

    /// The command ended: its exit code, or why it has none.
    pub(super) async fn end(mut self, end: End) -> Result<u8, Failure> {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let half = std::mem::take(self.half(stream));
            self.piece(stream, &half)?;
        }
        match end {
            End::Code(code) => self.out.event(&Event::Exit { code }).map(|()| code),
            End::Failed { code, message } => Err(Failure::new(code, message)),
        }
    }

    fn half(&mut self, stream: Stream) -> &mut Vec<u8> {
        let [stdout, stderr] = &mut self.halves;
        match stream {
            Stream::Stdout => stdout,
            Stream::Stderr => stderr,
        }
    }

    fn tell(&mut self, stream: Stream, data: Vec<u8>) -> Result<(), Failure> {
        let half = self.half(stream);
        let mut whole = std::mem::take(half);
        whole.extend_from_slice(&data);
        *half = whole.split_off(end_of_text(&whole));
        self.piece(stream, &whole)
    }

    fn piece(&self, stream: Stream, data: &[u8]) -> Result<(), Failure> {
        if data.is_empty() {
            return Ok(());
        }
        let piece = match std::str::from_utf8(data) {
            Ok(text) => Piece::Data(text),
            Err(_) => Piece::DataB64(STANDARD.encode(data)),
        };
        self.out.event(&match stream {
            Stream::Stdout => Event::Stdout(piece),
            Stream::Stderr => Event::Stderr(piece),
        })
    }
}

/// Where a text ends that may break off within its last character. What is no text ends at its end.
fn end_of_text(data: &[u8]) -> usize {
    match std::str::from_utf8(data) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        _ => data.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_is_not_torn() {
        for (data, end) in [
            (&b""[..], 0),
            (b"abc", 3),
            ("ä".as_bytes(), 2),
            (b"ab\xc3", 2),
            (b"\xf0\x9f\x90", 0),
            (b"\xff\xfe", 2),
            (b"a\xffb\xc3", 4),
        ] {
            assert_eq!(end_of_text(data), end, "{data:?}");
        }
    }
}
