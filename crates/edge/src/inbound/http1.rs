//! Strict reader of HTTP/1, between the client and the HTTP library. The library tolerates what another
//! parser may read differently (a line that ends in a bare LF, a length beside chunks). Here, such a request
//! is replaced by one that gets refused.
//!
//! The reader therefore knows where a head starts and ends, which bounds the time a client may take to send
//! one ([`Connection`]).

mod chunked;
mod head;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures_util::task::AtomicWaker;
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use chunked::Chunked;
use head::{Framing, Head};
use rigbox_gateway::connections::Connection;

/// Maximum size of a head in bytes.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Time without a byte of the response after which a client that has ended its side counts as gone. A closed connection looks the same.
const HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(30);
const HALF_CLOSED_CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// Header of the request that replaces a malformed one. It carries the reason, and does no harm if a client
/// sends it itself.
pub(crate) const MALFORMED: &str = "x-rigbox-malformed";

const HEAD_TOO_LARGE: &str = "the head is larger than 64 KiB";

/// Returns the status for the reason in a [`MALFORMED`] header.
pub(crate) fn status_of(problem: &str) -> StatusCode {
    match problem {
        head::ADDRESS_TOO_LONG => StatusCode::URI_TOO_LONG,
        head::TOO_MANY_FIELDS | HEAD_TOO_LARGE => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        head::UNSUPPORTED_VERSION => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
        _ => StatusCode::BAD_REQUEST,
    }
}

/// Outcome of a request to upgrade an HTTP/1 connection.
#[derive(Debug, Default)]
pub(crate) struct UpgradeFlag {
    state: AtomicU8,
    reader: AtomicWaker,
}

const UNDECIDED: u8 = 0;
const UPGRADED: u8 = 1;
const DECLINED: u8 = 2;

impl UpgradeFlag {
    /// Marks the connection as upgraded. To be called before the client is told.
    pub(crate) fn set(&self) {
        self.state.store(UPGRADED, Ordering::Release);
    }

    /// Records that the request is answered without an upgrade: what follows is the next request.
    pub(crate) fn decline(&self) {
        let declined =
            self.state.compare_exchange(UNDECIDED, DECLINED, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if declined {
            self.reader.wake();
        }
    }

    fn await_response(&self) {
        self.state.store(UNDECIDED, Ordering::Release);
    }

    fn state(&self) -> u8 {
        self.state.load(Ordering::Acquire)
    }
}

/// Client that has ended its side of the connection, and may still be waiting for the response.
#[derive(Debug)]
struct HalfClosed {
    /// When the last bytes were written.
    written: Instant,
    check: Pin<Box<Sleep>>,
}

impl HalfClosed {
    fn new() -> Self {
        let check = Box::pin(tokio::time::sleep(HALF_CLOSED_CHECK_INTERVAL));
        Self { written: Instant::now(), check }
    }

    /// Waits until the response has ended, or nothing has been written for too long: the client is gone then.
    fn poll_over(&mut self, connection: &Connection, cx: &mut Context<'_>) -> Poll<()> {
        while connection.is_busy() && self.written.elapsed() < HALF_CLOSED_TIMEOUT {
            ready!(self.check.as_mut().poll(cx));
            self.check.as_mut().reset(Instant::now() + HALF_CLOSED_CHECK_INTERVAL);
        }
        Poll::Ready(())
    }
}

/// Part of a message that the next byte belongs to.
#[derive(Debug)]
enum State {
    Head(Head),
    /// A body with this many bytes left.
    Body(u64),
    Chunked(Chunked),
    /// After a request to upgrade, until it is answered.
    AwaitingResponse,
    Raw,
    /// After a malformed request: everything that follows is ignored.
    Refused,
    /// After a malformed body.
    Broken(&'static str),
}

/// Stream whose reading side is checked.
#[derive(Debug)]
pub(crate) struct Guard<S> {
    stream: S,
    state: State,
    /// Bytes read but not released yet.
    held: BytesMut,
    /// Bytes to release.
    ready: BytesMut,
    /// Replacement of a malformed request, to be released after `ready`.
    refusal: Option<String>,
    half_closed: Option<HalfClosed>,
    upgrade: Arc<UpgradeFlag>,
    connection: Arc<Connection>,
}

impl<S> Guard<S> {
    /// Wraps an HTTP/1 stream, of which `read` has been read already.
    pub(crate) fn new(
        stream: S,
        read: &[u8],
        upgrade: Arc<UpgradeFlag>,
        connection: Arc<Connection>,
    ) -> Self {
        let held = BytesMut::from(read);
        let (state, ready) = (State::Head(Head::default()), BytesMut::new());
        Self { stream, state, held, ready, refusal: None, half_closed: None, upgrade, connection }
    }

    /// Wraps a stream that is not HTTP/1.
    pub(crate) fn raw(stream: S, read: &[u8], connection: Arc<Connection>) -> Self {
        let (ready, held) = (BytesMut::from(read), BytesMut::new());
        Self {
            stream,
            state: State::Raw,
            held,
            ready,
            refusal: None,
            half_closed: None,
            upgrade: Arc::default(),
            connection,
        }
    }

    /// Checks `bytes`. Returns how many may be released.
    fn check(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            match &mut self.state {
                State::Raw => return bytes.len(),
                State::Refused | State::Broken(_) => return at,
                State::AwaitingResponse => match self.upgrade.state() {
                    UPGRADED => self.state = State::Raw,
                    DECLINED => self.state = State::Head(Head::default()),
                    _ => return at,
                },
                State::Body(left) => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= taken as u64;
                    at += taken;
                    if *left == 0 {
                        self.state = State::Head(Head::default());
                    }
                }
                State::Chunked(chunked) => match chunked.parse(rest) {
                    Ok((taken, ended)) => {
                        at += taken;
                        if ended {
                            self.state = State::Head(Head::default());
                        }
                    }
                    Err(problem) => self.state = State::Broken(problem),
                },
                State::Head(head) => match head.parse(rest) {
                    Ok(Some((length, _))) if length > MAX_HEAD_BYTES => self.refuse(HEAD_TOO_LARGE),
                    Ok(Some((length, framing))) => {
                        at += length;
                        self.connection.head_finished();
                        self.state = match framing {
                            Framing::Nothing => State::Head(Head::default()),
                            Framing::Bytes(count) => State::Body(count),
                            Framing::Chunked => State::Chunked(Chunked::default()),
                            Framing::Response => {
                                self.upgrade.await_response();
                                State::AwaitingResponse
                            }
                        };
                    }
                    Ok(None) if rest.len() <= MAX_HEAD_BYTES => return at,
                    Ok(None) if head.is_in_address() => self.refuse(head::ADDRESS_TOO_LONG),
                    Ok(None) => self.refuse(HEAD_TOO_LARGE),
                    Err(problem) => self.refuse(problem),
                },
            }
        }
        at
    }

    /// Replaces a malformed request by one that will be refused.
    fn refuse(&mut self, problem: &'static str) {
        let request = format!(
            "GET / HTTP/1.1\r\nhost: malformed\r\n{MALFORMED}: {problem}\r\nconnection: close\r\n\r\n"
        );
        self.refusal = Some(request);
        self.state = State::Refused;
        self.connection.head_finished();
    }

    /// Checks the held bytes again, now that more is known about them.
    fn check_held(&mut self) {
        let mut held = std::mem::take(&mut self.held);
        let good = self.check(&held);
        self.ready.unsplit(held.split_to(good));
        if !matches!(self.state, State::Refused) {
            self.held = held;
        }
    }

    fn note_write(&mut self) {
        if let Some(half_closed) = &mut self.half_closed {
            half_closed.written = Instant::now();
        }
    }

    /// Returns whether the client has sent all of its requests so far.
    fn is_between_requests(&self) -> bool {
        match self.state {
            State::Head(_) => self.held.is_empty(),
            State::AwaitingResponse | State::Refused => true,
            State::Body(_) | State::Chunked(_) | State::Raw | State::Broken(_) => false,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guard<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.ready.is_empty() {
                let count = this.ready.len().min(buf.remaining());
                buf.put_slice(this.ready.get(..count).unwrap_or_default());
                this.ready.advance(count);
                return Poll::Ready(Ok(()));
            }
            if matches!(this.state, State::AwaitingResponse) && this.upgrade.state() == UPGRADED {
                // The end of a tunnel is the end of its client.
                this.state = State::Raw;
                this.half_closed = None;
                this.ready.unsplit(std::mem::take(&mut this.held));
                continue;
            }
            if matches!(this.state, State::Raw) && this.held.is_empty() {
                return Pin::new(&mut this.stream).poll_read(cx, buf);
            }
            if let Some(refusal) = this.refusal.take() {
                this.ready.extend_from_slice(refusal.as_bytes());
                continue;
            }
            if let State::Broken(problem) = this.state {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, problem)));
            }
            if matches!(this.state, State::AwaitingResponse) {
                this.upgrade.reader.register(cx.waker());
            }
            if !this.held.is_empty() {
                this.check_held();
                if !this.ready.is_empty() || this.refusal.is_some() || matches!(this.state, State::Broken(_))
                {
                    continue;
                }
            }
            if let Some(half_closed) = &mut this.half_closed {
                return half_closed.poll_over(&this.connection, cx).map(Ok);
            }
            let before = buf.filled().len();
            if buf.remaining() == 0 || this.held.len() > MAX_HEAD_BYTES {
                return Poll::Pending;
            }
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            let read = buf.filled().get(before..).unwrap_or_default();
            if read.is_empty() && this.is_between_requests() && this.connection.is_busy() {
                this.half_closed = Some(HalfClosed::new());
                continue;
            }
            if read.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if !this.held.is_empty() {
                this.held.extend_from_slice(read);
                buf.set_filled(before);
                continue;
            }
            // The usual case: a body, or complete heads.
            if matches!(this.state, State::Head(_)) {
                this.connection.head_started();
            }
            let good = this.check(read);
            if !matches!(this.state, State::Refused) {
                this.held.extend_from_slice(read.get(good..).unwrap_or_default());
            }
            buf.set_filled(before + good);
            if good > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.note_write();
        Pin::new(&mut this.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.note_write();
        Pin::new(&mut this.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
