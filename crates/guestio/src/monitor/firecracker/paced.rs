//! Reader of a pipe that a VMM writes to. The VMM may have been taken over by its guest and write without an end, so it is read at a bounded
//! rate; what does not fit into the pipe meanwhile is lost, and nobody waits for it.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, sleep_until};

/// Bytes read at once, and the time between two reads: 800 kB a second.
const CHUNK_BYTES: usize = 4096;
const PAUSE: Duration = Duration::from_millis(5);

/// Reader with a rate.
pub(super) struct Paced<R> {
    source: R,
    next: Instant,
    chunk: [u8; CHUNK_BYTES],
}

impl<R: AsyncRead + Unpin> Paced<R> {
    pub(super) fn new(source: R) -> Self {
        Self { source, next: Instant::now(), chunk: [0; CHUNK_BYTES] }
    }

    /// Reads the next bytes; none at the end. Cancellation-safe.
    ///
    /// # Errors
    /// The pipe cannot be read.
    pub(super) async fn read(&mut self) -> io::Result<&[u8]> {
        sleep_until(self.next).await;
        let count = self.source.read(&mut self.chunk).await?;
        self.next = Instant::now() + PAUSE;
        Ok(self.chunk.get(..count).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn endless_writer_is_read_at_the_rate() {
        let (mut endless, began, mut bytes) = (Paced::new(tokio::io::repeat(b'x')), Instant::now(), 0);
        while began.elapsed() < Duration::from_secs(1) {
            bytes += endless.read().await.unwrap().len();
        }
        assert!((700_000..900_000).contains(&bytes), "{bytes}");
    }
}
