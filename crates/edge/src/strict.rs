//! A client's HTTP/1 bytes, read strictly before the HTTP library sees them. The library forgives what another parser may read in
//! another way (a line that ends with a bare LF, a length beside chunks); here such a request becomes one that is refused.
//!
//! For the same reason this knows where a head ends and when it began, which bounds how long a client may take to send one ([`Line`]).

mod body;
mod head;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::line::Line;
use body::Chunked;
use head::{Follows, Head};

/// Largest head, bytes.
const LARGEST_HEAD: usize = 64 * 1024;
/// The header of the request that stands for a malformed one. It tells why, and harms nobody who sends it himself.
pub(crate) const MALFORMED: &str = "x-rigbox-malformed";

/// Whether the bytes of a connection are still HTTP/1.
#[derive(Debug, Default)]
pub(crate) struct Switch(AtomicBool);

impl Switch {
    /// From here on the bytes are those of a WebSocket. To be called before the client is told so.
    pub(crate) fn to_raw(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_raw(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What the next byte belongs to.
#[derive(Debug)]
enum Place {
    Head(Head),
    /// So many bytes of a body.
    Body(u64),
    Chunked(Chunked),
    /// After a request to change the protocol, until it is answered.
    Asked,
    Raw,
    /// A malformed request was seen: nothing that comes after it counts.
    Dead,
    /// A malformed body was seen.
    Broken(&'static str),
}

/// A stream of which the reading side is checked.
#[derive(Debug)]
pub(crate) struct Strict<S> {
    stream: S,
    place: Place,
    /// Read, and not to be handed on yet.
    held: BytesMut,
    /// To be handed on.
    ready: BytesMut,
    /// To be handed on after that: what stands for a malformed request.
    refusal: Option<String>,
    switch: Arc<Switch>,
    line: Arc<Line>,
}

impl<S> Strict<S> {
    /// `begun`: what was read already.
    pub(crate) fn new(stream: S, begun: &[u8], switch: Arc<Switch>, line: Arc<Line>) -> Self {
        let held = BytesMut::from(begun);
        let (place, ready) = (Place::Head(Head::default()), BytesMut::new());
        Self { stream, place, held, ready, refusal: None, switch, line }
    }

    /// For bytes that are not HTTP/1.
    pub(crate) fn raw(stream: S, begun: &[u8], line: Arc<Line>) -> Self {
        let (ready, held) = (BytesMut::from(begun), BytesMut::new());
        Self { stream, place: Place::Raw, held, ready, refusal: None, switch: Arc::default(), line }
    }

    /// Goes through `bytes` as far as they may be handed on; how far that is.
    fn check(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            match &mut self.place {
                Place::Raw => return bytes.len(),
                Place::Dead | Place::Broken(_) => return at,
                Place::Asked if self.switch.is_raw() => self.place = Place::Raw,
                Place::Asked => return at,
                Place::Body(left) => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= taken as u64;
                    at += taken;
                    if *left == 0 {
                        self.place = Place::Head(Head::default());
                    }
                }
                Place::Chunked(chunked) => match chunked.take(rest) {
                    Ok((taken, ended)) => {
                        at += taken;
                        if ended {
                            self.place = Place::Head(Head::default());
                        }
                    }
                    Err(problem) => self.place = Place::Broken(problem),
                },
                Place::Head(head) => match head.take(rest) {
                    Ok(Some((length, follows))) => {
                        at += length;
                        self.line.has_head();
                        self.place = match follows {
                            Follows::Nothing => Place::Head(Head::default()),
                            Follows::Bytes(count) => Place::Body(count),
                            Follows::Chunks => Place::Chunked(Chunked::default()),
                            Follows::Answer => Place::Asked,
                        };
                    }
                    Ok(None) if rest.len() <= LARGEST_HEAD => return at,
                    Ok(None) => self.refuse("its head is larger than 64 KiB"),
                    Err(problem) => self.refuse(problem),
                },
            }
        }
        at
    }

    /// Puts a request that will be refused in the place of the one that was sent.
    fn refuse(&mut self, problem: &'static str) {
        let request = format!(
            "GET / HTTP/1.1\r\nhost: malformed\r\n{MALFORMED}: {problem}\r\nconnection: close\r\n\r\n"
        );
        self.refusal = Some(request);
        self.place = Place::Dead;
        self.line.has_head();
    }

    /// Checks what is held: it may have been there before it was known what it is.
    fn check_held(&mut self) {
        let mut held = std::mem::take(&mut self.held);
        let good = self.check(&held);
        self.ready.unsplit(held.split_to(good));
        if !matches!(self.place, Place::Dead) {
            self.held = held;
        }
    }

    /// After an answer that changed nothing the bytes are HTTP/1 again: known because the library asks for the next head.
    fn settle(&mut self) {
        if matches!(self.place, Place::Asked) && !self.line.is_busy() && !self.switch.is_raw() {
            self.place = Place::Head(Head::default());
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Strict<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.ready.is_empty() {
                let count = this.ready.len().min(buf.remaining());
                buf.put_slice(this.ready.get(..count).unwrap_or_default());
                this.ready.advance(count);
                return Poll::Ready(Ok(()));
            }
            if matches!(this.place, Place::Raw) && this.held.is_empty() {
                return Pin::new(&mut this.stream).poll_read(cx, buf);
            }
            if let Some(refusal) = this.refusal.take() {
                this.ready.extend_from_slice(refusal.as_bytes());
                continue;
            }
            if let Place::Broken(problem) = this.place {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, problem)));
            }
            this.settle();
            if !this.held.is_empty() {
                this.check_held();
                if !this.ready.is_empty() || this.refusal.is_some() || matches!(this.place, Place::Broken(_))
                {
                    continue;
                }
            }
            let before = buf.filled().len();
            if buf.remaining() == 0 || this.held.len() > LARGEST_HEAD {
                return Poll::Pending;
            }
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            let read = buf.filled().get(before..).unwrap_or_default();
            if read.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if !this.held.is_empty() {
                this.held.extend_from_slice(read);
                buf.set_filled(before);
                continue;
            }
            // Nearly always: a body, or whole heads.
            if matches!(this.place, Place::Head(_)) {
                this.line.begins_head();
            }
            let good = this.check(read);
            if !matches!(this.place, Place::Dead) {
                this.held.extend_from_slice(read.get(good..).unwrap_or_default());
            }
            buf.set_filled(before + good);
            if good > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Strict<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
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
