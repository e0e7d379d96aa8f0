//! Tunnel: bytes in both directions between two streams. A waiting tunnel holds no buffer, because there may be very many.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rigbox_gateway::active_grants::Waiter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::decision::access_request::Grant;

/// Size of the buffer that all tunnels of a worker share, in bytes.
const BUFFER_BYTES: usize = 64 * 1024;
/// Reads before other tasks get a turn.
const MAX_READS_PER_POLL: usize = 16;
/// Timeout from the end of one direction to that of the other.
const HALF_CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER_BYTES]);
}

/// Future of a tunnel between a client and an app; completes when both directions have ended, or with its grant.
pub(crate) struct Tunnel<A, B> {
    client: A,
    app: B,
    to_app: Direction,
    to_client: Direction,
    grant: Arc<Grant>,
    idle_timeout: Duration,
}

/// One direction of a tunnel.
#[derive(Default)]
struct Direction {
    /// Bytes read and not written yet, from `at` on.
    pending: Vec<u8>,
    at: usize,
    needs_flush: bool,
    read_ended: bool,
    done: bool,
}

impl<A, B> Tunnel<A, B> {
    pub(crate) fn new(client: A, app: B, grant: Arc<Grant>, idle_timeout: Duration) -> Self {
        let (to_app, to_client) = (Direction::default(), Direction::default());
        Self { client, app, to_app, to_client, grant, idle_timeout }
    }
}

impl<A, B> Future for Tunnel<A, B>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.grant.poll_ended(Waiter::Response, cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut moved = false;
        let to_app = this.to_app.pump(&mut this.client, &mut this.app, &mut moved, cx)?;
        let to_client = this.to_client.pump(&mut this.app, &mut this.client, &mut moved, cx)?;
        if moved {
            let half_closed = this.to_app.read_ended || this.to_client.read_ended;
            this.grant.touch(if half_closed { HALF_CLOSE_TIMEOUT } else { this.idle_timeout });
        }
        if to_app.is_ready() && to_client.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

impl Direction {
    /// Moves the bytes that are available. Ready once the direction has ended.
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
        for _ in 0..MAX_READS_PER_POLL {
            while let Some(pending) = self.pending.get(self.at..).filter(|pending| !pending.is_empty()) {
                let count = ready!(Pin::new(&mut *to).poll_write(cx, pending))?;
                if count == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.at += count;
                *moved = true;
                self.needs_flush = true;
            }
            (self.pending, self.at) = (Vec::new(), 0);
            if self.read_ended {
                ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                self.done = true;
                return Poll::Ready(Ok(()));
            }
            let read = SCRATCH.with_borrow_mut(|scratch| self.read(from, to, scratch, cx));
            match read? {
                Poll::Ready(()) => *moved = true,
                Poll::Pending => {
                    if self.needs_flush {
                        ready!(Pin::new(&mut *to).poll_flush(cx))?;
                        self.needs_flush = false;
                    }
                    return Poll::Pending;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads once, writes what the other side accepts, and keeps the rest.
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
        let mut buffer = ReadBuf::new(scratch);
        match Pin::new(from).poll_read(cx, &mut buffer)? {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(()) if buffer.filled().is_empty() => {
                self.read_ended = true;
                return Ok(Poll::Ready(()));
            }
            Poll::Ready(()) => {}
        }
        let count = match Pin::new(to).poll_write(cx, buffer.filled())? {
            Poll::Ready(count) => count,
            Poll::Pending => 0,
        };
        self.needs_flush |= count > 0;
        self.pending = buffer.filled().get(count..).unwrap_or_default().to_vec();
        self.at = 0;
        Ok(Poll::Ready(()))
    }
}
