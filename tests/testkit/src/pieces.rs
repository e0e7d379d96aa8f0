//! In-memory stream for tests of parsers: its reader gets fixed bytes and then the end, in one piece or in many. Where a read ends must
//! make no difference to what is read.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Maximum length of a piece.
const MAX_PIECE: u64 = 48;
/// Bytes to keep of what is written.
const MAX_WRITTEN_BYTES: usize = 1 << 20;

/// Stream with fixed bytes to read. What is written is kept.
#[derive(Debug)]
pub struct Pieces {
    bytes: Vec<u8>,
    at: usize,
    /// State of the generator of lengths; `None`: there is one piece.
    lengths: Option<u64>,
    /// Number of written bytes until which reading waits.
    held_until: usize,
    reader: Option<Waker>,
    written: Written,
}

/// Bytes written to a stream.
#[derive(Debug, Clone, Default)]
pub struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    /// Returns the bytes so far.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Pieces {
    /// Returns a stream that yields as many bytes as a read asks for.
    #[must_use]
    pub fn whole(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.to_vec(),
            at: 0,
            lengths: None,
            held_until: 0,
            reader: None,
            written: Written::default(),
        }
    }

    /// Returns a stream that yields pieces of lengths that follow from the bytes.
    #[must_use]
    pub fn split(bytes: &[u8]) -> Self {
        let seed = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self { lengths: Some(seed | 1), ..Self::whole(bytes) }
    }

    /// Holds back what is to be read until so many bytes are written.
    #[must_use]
    pub fn after_written(self, bytes: usize) -> Self {
        Self { held_until: bytes, ..self }
    }

    /// Returns what will have been written.
    #[must_use]
    pub fn written(&self) -> Written {
        self.written.clone()
    }

    /// Returns the bytes that have not been read.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// Returns the length of the next piece.
    fn next_length(&mut self) -> usize {
        let Some(state) = &mut self.lengths else { return usize::MAX };
        // Xorshift.
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        usize::try_from(*state % MAX_PIECE).map_or(1, |length| length + 1)
    }
}

impl AsyncRead for Pieces {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.written.len() < this.held_until {
            this.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let length = this.next_length().min(buf.remaining()).min(this.rest().len());
        buf.put_slice(this.rest().get(..length).unwrap_or_default());
        this.at += length;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(reader) = this.reader.take() {
            reader.wake();
        }
        let mut written = this.written.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = bytes.len().min(MAX_WRITTEN_BYTES.saturating_sub(written.len()));
        written.extend_from_slice(bytes.get(..kept).unwrap_or_default());
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
