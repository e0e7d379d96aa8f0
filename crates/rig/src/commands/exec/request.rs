//! Exec over one HTTP request, whose response is read line by line.

use reqwest::header::HeaderMap;
use reqwest::{Method, Response};

use super::Request;
use super::end::End;
use super::signals::Signals;
use super::sink::Sink;
use crate::api::{Api, ApiError};
use crate::failure::Failure;

/// Limit for a line, above what the server sends.
const MAX_LINE_BYTES: usize = 16 * 1024 * 1024;

pub(super) async fn run(
    api: &Api,
    workspace: &str,
    request: &Request,
    sink: &mut Sink<'_>,
) -> Result<End, Failure> {
    let signals = Signals::take().map_err(cannot_handle_signals)?;
    let open = async |id: &str| {
        let request = api.request(Method::POST, &["workspaces", id, "exec"], &[])?.json(request);
        Ok((id.to_owned(), api.open(request).await?))
    };
    let (id, response) = api.with_id(workspace, open).await?;
    let process = process_of(response.headers());
    tokio::select! {
        end = read(api, response, sink) => end,
        end = signals.forward(api, &id, process.as_deref()) => Ok(end),
    }
}

/// Returns the command's id from the head of a response.
pub(super) fn process_of(headers: &HeaderMap) -> Option<String> {
    headers.get("rigbox-process").and_then(|id| id.to_str().ok()).map(str::to_owned)
}

pub(super) fn cannot_handle_signals(error: std::io::Error) -> Failure {
    Failure::new("internal", format!("cannot handle signals: {error}"))
}

/// Reads the lines of a response up to the command's end.
pub(super) async fn read(api: &Api, mut response: Response, sink: &mut Sink<'_>) -> Result<End, Failure> {
    let mut lines = Lines::default();
    loop {
        while let Some(line) = lines.next() {
            if !line.is_empty()
                && let Some(end) = sink.handle(&line).await?
            {
                return Ok(end);
            }
        }
        let chunk = response.chunk().await.map_err(|error| lost(api.unreachable(&error)))?;
        match chunk {
            Some(chunk) if lines.pending() <= MAX_LINE_BYTES => lines.push(&chunk),
            Some(_) => {
                return Err(Failure::new("unexpected_answer", "the server sent an overlong line"));
            }
            None => {
                return Err(Failure::new(
                    "connection_lost",
                    "the connection closed before the command ended",
                ));
            }
        }
    }
}

fn lost(error: ApiError) -> Failure {
    Failure::new("connection_lost", format!("lost the connection to the command: {error}"))
}

/// Splitter of chunks into lines.
#[derive(Default)]
struct Lines {
    buffer: Vec<u8>,
    /// Bytes already returned.
    start: usize,
    /// Bytes known to contain no line end.
    searched: usize,
}

impl Lines {
    fn push(&mut self, chunk: &[u8]) {
        self.buffer.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        self.buffer.extend_from_slice(chunk);
    }

    fn pending(&self) -> usize {
        self.buffer.len() - self.start
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        let Some(length) = self.buffer.get(self.searched..)?.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len();
            return None;
        };
        let end = self.searched + length;
        let line = self.buffer.get(self.start..end)?.to_vec();
        self.start = end + 1;
        self.searched = self.start;
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_complete_for_any_chunking() {
        let text = b"one\n\ntwo two\nthree";
        for size in 1..=text.len() {
            let mut lines = Lines::default();
            let mut seen = Vec::new();
            for chunk in text.chunks(size) {
                lines.push(chunk);
                seen.extend(std::iter::from_fn(|| lines.next()));
            }
            assert_eq!(seen, [&b"one"[..], b"", b"two two"], "in chunks of {size}");
            assert_eq!(lines.pending(), 5);
        }
    }
}
