//! Output of a command that runs in the background: the newest part of it, for those who attach later.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use rigbox_proto::guest::exec_output::Output;
use tokio::sync::watch;

/// Bytes of output that are kept.
const MAX_BYTES: usize = 256 * 1024;

/// Newest output of a command, in chunks, followed by its exit.
pub(super) struct Ring {
    kept: Mutex<Kept>,
    /// Number of chunks ever appended.
    appended: watch::Sender<u64>,
}

#[derive(Default)]
struct Kept {
    chunks: VecDeque<Output>,
    /// Number of the first chunk.
    first: u64,
    bytes: usize,
}

impl Ring {
    pub(super) fn new() -> Self {
        Self { kept: Mutex::default(), appended: watch::Sender::new(0) }
    }

    /// Appends a chunk, and drops the oldest ones if there are too many bytes.
    pub(super) fn append(&self, chunk: Output) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.bytes += size(&chunk);
        kept.chunks.push_back(chunk);
        while kept.bytes > MAX_BYTES {
            let Some(oldest) = kept.chunks.pop_front() else { break };
            kept.bytes -= size(&oldest);
            kept.first += 1;
        }
        let end = kept.first + kept.chunks.len() as u64;
        drop(kept);
        self.appended.send_replace(end);
    }

    /// Returns the oldest kept chunk with this number or a higher one, and the number after it. Waits for one that is still to come.
    pub(super) async fn next(&self, number: u64) -> (Output, u64) {
        let mut appended = self.appended.subscribe();
        loop {
            appended.mark_unchanged();
            if let Some(found) = self.kept_from(number) {
                return found;
            }
            // The sender lives as long as this ring.
            let _ = appended.changed().await;
        }
    }

    fn kept_from(&self, number: u64) -> Option<(Output, u64)> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let number = number.max(kept.first);
        let chunk = kept.chunks.get(usize::try_from(number - kept.first).ok()?)?;
        Some((chunk.clone(), number + 1))
    }
}

fn size(chunk: &Output) -> usize {
    match chunk {
        Output::Stdout(bytes) | Output::Stderr(bytes) => bytes.len(),
        Output::Exit(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn newest_output_is_kept_and_later_output_awaited() {
        let ring = std::sync::Arc::new(Ring::new());
        for byte in 0..9 {
            ring.append(Output::Stdout(vec![byte; MAX_BYTES / 8].into()));
        }
        let (first, next) = ring.next(0).await;
        assert_eq!((first, next), (Output::Stdout(vec![1; MAX_BYTES / 8].into()), 2));
        let waiting = tokio::spawn({
            let ring = std::sync::Arc::clone(&ring);
            async move { ring.next(9).await }
        });
        tokio::task::yield_now().await;
        ring.append(Output::Stderr(b"late"[..].into()));
        assert_eq!(waiting.await.unwrap(), (Output::Stderr(b"late"[..].into()), 10));
    }
}
