//! Bytes in both directions between two streams. One that waits holds no buffer: there may be very many.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::exchange::{Exchange, Side};

/// What is read at once, by one stream after another of a core.
const ROOM: usize = 64 * 1024;
/// After so many reads another task's turn comes.
const TURNS: usize = 16;
/// From the end of one direction to the other's.
const CLOSING: Duration = Duration::from_secs(30);

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; ROOM]);
}

/// See the module.
pub(crate) struct Relay<A, B> {
    client: A,
    app: B,
    up: Half,
    down: Half,
    exchange: Arc<Exchange>,
    patience: Duration,
}

/// One direction.
#[derive(Default)]
struct Half {
    /// Read and not yet written, from `at` on.
    rest: Vec<u8>,
    at: usize,
    written: bool,
    ended: bool,
    done: bool,
}

impl<A, B> Relay<A, B> {
    pub(crate) fn new(client: A, app: B, exchange: Arc<Exchange>, patience: Duration) -> Self {
        Self { client, app, up: Half::default(), down: Half::default(), exchange, patience }
    }
}

impl<A, B> Future for Relay<A, B>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.exchange.poll_ended(Side::Down, cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut moved = false;
        let up = this.up.pump(&mut this.client, &mut this.app, &mut moved, cx)?;
        let down = this.down.pump(&mut this.app, &mut this.client, &mut moved, cx)?;
        if moved {
            let closing = this.up.ended || this.down.ended;
            this.exchange.moves(if closing { CLOSING } else { this.patience });
        }
        if up.is_ready() && down.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

impl Half {
    /// Moves what there is; ready at the end.
    fn pump<R, W>(
        &mut self,
        from: &mut R,
        to: &mut W,
        moved: &mut bool,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        if self.done {
            return Poll::Ready(Ok(()));
        }
        for _ in 0..TURNS {
            while let Some(rest) = self.rest.get(self.at..).filter(|rest| !rest.is_empty()) {
                let count = ready!(Pin::new(&mut *to).poll_write(cx, rest))?;
                if count == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.at += count;
                *moved = true;
                self.written = true;
            }
            (self.rest, self.at) = (Vec::new(), 0);
            if self.ended {
                ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                self.done = true;
                return Poll::Ready(Ok(()));
            }
            let read = SCRATCH.with_borrow_mut(|scratch| self.read(from, to, scratch, cx));
            match read? {
                Poll::Ready(()) => *moved = true,
                Poll::Pending => {
                    if self.written {
                        ready!(Pin::new(&mut *to).poll_flush(cx))?;
                        self.written = false;
                    }
                    return Poll::Pending;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads once and writes what of it the other side takes.
    fn read<R, W>(
        &mut self,
        from: &mut R,
        to: &mut W,
        scratch: &mut [u8],
        cx: &mut Context<'_>,
    ) -> io::Result<Poll<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut room = ReadBuf::new(scratch);
        match Pin::new(from).poll_read(cx, &mut room)? {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(()) if room.filled().is_empty() => {
                self.ended = true;
                return Ok(Poll::Ready(()));
            }
            Poll::Ready(()) => {}
        }
        let count = match Pin::new(to).poll_write(cx, room.filled())? {
            Poll::Ready(count) => count,
            Poll::Pending => 0,
        };
        self.written |= count > 0;
        self.rest = room.filled().get(count..).unwrap_or_default().to_vec();
        self.at = 0;
        Ok(Poll::Ready(()))
    }
}
