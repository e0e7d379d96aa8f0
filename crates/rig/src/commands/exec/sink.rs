//! Output of the command: unchanged to our stdout and stderr, or as events.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncWriteExt, Stderr, Stdout, stderr, stdout};
use tokio::sync::mpsc::Sender;

use super::end::{End, ServerMessage};
use crate::failure::Failure;
use crate::output::{Chunk, Event, Format, Output};

/// Writer of one command's output.
pub(crate) struct Sink<'a> {
    out: &'a Output,
    // Not the blocking ones: signals must get through while no one reads our output.
    stdout: Stdout,
    stderr: Stderr,
    /// Takes stdout of the command instead, for `rig cp`.
    capture: Option<Sender<Vec<u8>>>,
    /// Start of a character whose rest has not arrived yet, per stream.
    partial: [Vec<u8>; 2],
}

#[derive(Debug, Clone, Copy)]
enum Stream {
    Stdout,
    Stderr,
}

impl<'a> Sink<'a> {
    pub(crate) fn new(out: &'a Output) -> Self {
        Self { out, stdout: stdout(), stderr: stderr(), capture: None, partial: [Vec::new(), Vec::new()] }
    }

    /// Creates a sink whose stdout goes to `capture`, and stderr to ours.
    pub(crate) fn capturing(out: &'a Output, capture: Sender<Vec<u8>>) -> Self {
        Self { capture: Some(capture), ..Self::new(out) }
    }

    /// Handles a message of the server, and returns the end if it is that.
    pub(crate) async fn handle(&mut self, text: &[u8]) -> Result<Option<End>, Failure> {
        let message: ServerMessage<'_> = serde_json::from_slice(text).map_err(|error| {
            Failure::new("unexpected_answer", format!("invalid message from the server: {error}"))
        })?;
        let stream = match message.stream {
            Some("stdout") => Stream::Stdout,
            Some("stderr") => Stream::Stderr,
            _ => return Ok(message.end()),
        };
        let data = STANDARD.decode(message.data_b64.unwrap_or_default()).map_err(|error| {
            Failure::new("unexpected_answer", format!("invalid output from the server: {error}"))
        })?;
        if let Some(capture) = &self.capture {
            match stream {
                // A receiver that has gone has failed, and tells why.
                Stream::Stdout => drop(capture.send(data).await),
                Stream::Stderr => self.stderr.write_all(&data).await?,
            }
            return Ok(None);
        }
        match (self.out.format(), stream) {
            (Format::Text, Stream::Stdout) => {
                self.stdout.write_all(&data).await?;
                self.stdout.flush().await?;
            }
            (Format::Text, Stream::Stderr) => {
                self.stderr.write_all(&data).await?;
                self.stderr.flush().await?;
            }
            (Format::Json, stream) => self.write_event(stream, data)?,
        }
        Ok(None)
    }

    /// Writes the rest, and returns the command's exit code or failure.
    pub(crate) async fn finish(mut self, end: End) -> Result<u8, Failure> {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let partial = std::mem::take(self.partial(stream));
            self.write_chunk(stream, &partial)?;
        }
        match end {
            End::Code(code) => self.out.event(&Event::Exit { code }).map(|()| code),
            End::Failed { code, message } => Err(Failure::Command { code, message }),
        }
    }

    fn partial(&mut self, stream: Stream) -> &mut Vec<u8> {
        let [stdout, stderr] = &mut self.partial;
        match stream {
            Stream::Stdout => stdout,
            Stream::Stderr => stderr,
        }
    }

    fn write_event(&mut self, stream: Stream, data: Vec<u8>) -> Result<(), Failure> {
        let partial = self.partial(stream);
        let mut complete = std::mem::take(partial);
        complete.extend_from_slice(&data);
        *partial = complete.split_off(complete_len(&complete));
        self.write_chunk(stream, &complete)
    }

    fn write_chunk(&self, stream: Stream, data: &[u8]) -> Result<(), Failure> {
        if data.is_empty() {
            return Ok(());
        }
        let chunk = match std::str::from_utf8(data) {
            Ok(text) => Chunk::Data(text),
            Err(_) => Chunk::DataB64(STANDARD.encode(data)),
        };
        self.out.event(&match stream {
            Stream::Stdout => Event::Stdout(chunk),
            Stream::Stderr => Event::Stderr(chunk),
        })
    }
}

/// Returns the length without an incomplete last character. Data that is not UTF-8 is complete.
fn complete_len(data: &[u8]) -> usize {
    match std::str::from_utf8(data) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        _ => data.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn character_is_not_split() {
        for (data, end) in [
            (&b""[..], 0),
            (b"abc", 3),
            ("ä".as_bytes(), 2),
            (b"ab\xc3", 2),
            (b"\xf0\x9f\x90", 0),
            (b"\xff\xfe", 2),
            (b"a\xffb\xc3", 4),
        ] {
            assert_eq!(complete_len(data), end, "{data:?}");
        }
    }
}
