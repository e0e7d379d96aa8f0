//! One request, and its answer line by line.

use reqwest::Method;

use super::Request;
use super::end::End;
use super::sink::Sink;
use crate::api::{Api, ApiError};
use crate::failure::Failure;

/// More than the server puts into one line.
const LONGEST_LINE: usize = 16 * 1024 * 1024;

pub(super) async fn run(
    api: &Api,
    workspace: &str,
    request: &Request,
    sink: &mut Sink<'_>,
) -> Result<End, Failure> {
    let open = async |id: &str| {
        api.open(api.request(Method::POST, &["workspaces", id, "exec"], &[])?.json(request)).await
    };
    let mut answer = api.with_id(workspace, open).await?;
    let mut lines = Lines::default();
    loop {
        while let Some(line) = lines.next() {
            if !line.is_empty()
                && let Some(end) = sink.take(&line).await?
            {
                return Ok(end);
            }
        }
        let chunk = answer.chunk().await.map_err(|error| lost(api.unreachable(&error)))?;
        match chunk {
            Some(chunk) if lines.pending() <= LONGEST_LINE => lines.push(&chunk),
            Some(_) => {
                return Err(Failure::new("unexpected_answer", "the server sends a line without an end"));
            }
            None => {
                return Err(Failure::new(
                    "connection_lost",
                    "the server ended the answer before the command's end was seen",
                ));
            }
        }
    }
}

fn lost(error: ApiError) -> Failure {
    Failure::new("connection_lost", format!("the command's end was not seen: {error}"))
}

/// Lines out of pieces.
#[derive(Default)]
struct Lines {
    buffer: Vec<u8>,
    /// What was handed out.
    begin: usize,
    /// What has no line end in it.
    searched: usize,
}

impl Lines {
    fn push(&mut self, piece: &[u8]) {
        self.buffer.drain(..self.begin);
        self.searched -= self.begin;
        self.begin = 0;
        self.buffer.extend_from_slice(piece);
    }

    fn pending(&self) -> usize {
        self.buffer.len() - self.begin
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        let Some(length) = self.buffer.get(self.searched..)?.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len();
            return None;
        };
        let end = self.searched + length;
        let line = self.buffer.get(self.begin..end)?.to_vec();
        self.begin = end + 1;
        self.searched = self.begin;
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_however_they_are_cut() {
        let text = b"one\n\ntwo two\nthree";
        for size in 1..=text.len() {
            let mut lines = Lines::default();
            let mut seen = Vec::new();
            for piece in text.chunks(size) {
                lines.push(piece);
                seen.extend(std::iter::from_fn(|| lines.next()));
            }
            assert_eq!(seen, [&b"one"[..], b"", b"two two"], "in pieces of {size}");
            assert_eq!(lines.pending(), 5);
        }
    }
}
