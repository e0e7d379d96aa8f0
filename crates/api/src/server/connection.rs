//! Connection of a client, which must read: a write without progress fails after a while. Streams are exempt, because whoever follows a
//! log or pauses a command's output may read whenever it likes; their number is bounded elsewhere. A connection can be closed from outside,
//! which also ends what it was upgraded to.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use rigbox_service::identity::open_requests::OpenRequest;
use rigbox_shares::{AddressBlock, Evict, Place};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// Control of a connection, in the extensions of its requests.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConnectionControl(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// True if the response that is being written may stand still.
    exempt: AtomicBool,
    closed: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
    /// Request that upgraded the connection, which is open for as long as the connection is.
    upgraded_by: Mutex<Option<Arc<OpenRequest>>>,
    /// True from the head of a request to the end of its response.
    responding: AtomicBool,
    /// Time since which the connection has been waiting for its client, if it is.
    waiting_since: Mutex<Option<Instant>>,
    /// Place of the request in a bound of its client, who shares the connection with others.
    place: Mutex<Option<Place<AddressBlock>>>,
}

impl ConnectionControl {
    /// Exempts the next response from the timeout, or not.
    pub(super) fn set_exempt(&self, exempt: bool) {
        self.0.exempt.store(exempt, Ordering::Relaxed);
    }

    /// Closes the connection: reads and writes fail.
    pub(crate) fn close(&self) {
        self.0.closed.store(true, Ordering::Release);
        self.0.reader.wake();
        self.0.writer.wake();
    }

    /// Keeps the request that upgraded the connection.
    pub(crate) fn upgraded(&self, by: Arc<OpenRequest>) {
        *self.0.upgraded_by.lock().unwrap_or_else(PoisonError::into_inner) = Some(by);
    }

    /// Keeps the place of the request that is being served.
    pub(super) fn set_place(&self, place: Option<Place<AddressBlock>>) {
        *self.0.place.lock().unwrap_or_else(PoisonError::into_inner) = place;
    }

    /// Records the head of a request, or the end of its response.
    pub(super) fn set_responding(&self, responding: bool) {
        self.0.responding.store(responding, Ordering::Relaxed);
    }

    fn is_responding(&self) -> bool {
        self.0.responding.load(Ordering::Relaxed)
    }

    /// Records that the connection begins to wait for its client, unless it already does, or that it does not wait.
    pub(super) fn set_waiting(&self, waiting: bool) {
        let mut since = self.0.waiting_since.lock().unwrap_or_else(PoisonError::into_inner);
        *since = if waiting { since.or_else(|| Some(Instant::now())) } else { None };
    }

    fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Acquire)
    }
}

impl Evict for ConnectionControl {
    fn idle_since(&self) -> Option<std::time::Instant> {
        self.0.waiting_since.lock().unwrap_or_else(PoisonError::into_inner).map(Instant::into_std)
    }

    fn evict(&self) -> bool {
        let is_idle = self.idle_since().is_some();
        if is_idle {
            self.close();
        }
        is_idle
    }
}

/// The connection.
pub(super) struct Connection<S> {
    stream: S,
    timeout: Duration,
    control: ConnectionControl,
    deadline: Pin<Box<Sleep>>,
    /// True while a write waits for the client.
    is_waiting: bool,
}

impl<S> Connection<S> {
    pub(super) fn new(stream: S, timeout: Duration, control: ConnectionControl) -> Self {
        control.set_waiting(true);
        Self { stream, timeout, control, deadline: Box::pin(sleep(timeout)), is_waiting: false }
    }

    /// Passes on the result of a write, or fails one that has waited for too long.
    fn watch<T>(&mut self, context: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_pending() {
            self.control.0.writer.register(context.waker());
        }
        // After registering, so that no closing is missed.
        if self.control.is_closed() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if result.is_ready() || self.control.0.exempt.load(Ordering::Relaxed) {
            if self.is_waiting && self.control.is_responding() {
                self.control.set_waiting(false);
            }
            self.is_waiting = false;
            return result;
        }
        if !self.is_waiting {
            self.is_waiting = true;
            self.control.set_waiting(true);
            self.deadline.as_mut().reset(Instant::now() + self.timeout);
        }
        ready!(self.deadline.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S> Drop for Connection<S> {
    fn drop(&mut self) {
        // The request has a handle of this state too.
        self.control.0.upgraded_by.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.control.set_place(None);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        if result.is_pending() {
            self.control.0.reader.register(context.waker());
        }
        if self.control.is_closed() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watch(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(context);
        self.watch(context, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_shutdown(context);
        self.watch(context, result)
    }
}
