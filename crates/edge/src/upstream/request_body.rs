//! Body of a request on its way to the app. It flows as fast as the app reads, and fails when its grant ends or the client is too slow.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use rigbox_gateway::active_grants::{EndReason, Waiter};
use tokio::time::Sleep;

use crate::decision::access_request::Grant;
use crate::request::headers;

/// Pace below which a client uses up the time it has for a body, in bytes a second.
const MIN_PACE: u64 = 500;
/// Time for which an app that knows nothing of `Expect: 100-continue` holds back a body.
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);

/// Body of a request to an app.
#[derive(Debug)]
pub(crate) enum RequestBody {
    Empty,
    Client(Box<ClientBody>),
}

/// Fault of a client in the body of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyFault {
    #[error("the request body is malformed or incomplete")]
    Malformed,
    #[error("the request body arrives too slowly")]
    TooSlow,
}

/// Body that a client sends.
#[derive(Debug)]
pub(crate) struct ClientBody {
    body: Incoming,
    grant: Arc<Grant>,
    idle_timeout: Duration,
    /// gRPC has a body that is a stream of messages, at any pace, and trailers.
    grpc: bool,
    held_back: Option<HeldBack>,
    waited: Duration,
    waiting_since: Option<Instant>,
    received: u64,
}

/// Signal that the app wants the body of a request with `Expect: 100-continue`.
#[derive(Debug, Default)]
pub(crate) struct Continue {
    said: AtomicBool,
    waker: AtomicWaker,
}

#[derive(Debug)]
struct HeldBack {
    signal: Arc<Continue>,
    timeout: Pin<Box<Sleep>>,
}

impl Continue {
    /// To be called when the app has sent a 100.
    pub(crate) fn say(&self) {
        self.said.store(true, Ordering::Release);
        self.waker.wake();
    }
}

impl HeldBack {
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.signal.waker.register(cx.waker());
        if self.signal.said.load(Ordering::Acquire) {
            Poll::Ready(())
        } else {
            self.timeout.as_mut().poll(cx)
        }
    }
}

impl ClientBody {
    pub(crate) fn new(body: Incoming, grant: Arc<Grant>, idle_timeout: Duration, grpc: bool) -> Self {
        Self {
            body,
            grant,
            idle_timeout,
            grpc,
            held_back: None,
            waited: Duration::ZERO,
            waiting_since: None,
            received: 0,
        }
    }

    /// Holds the body back until the app wants it, or has said nothing for a second: only then does the client send it.
    pub(crate) fn hold_back(&mut self) -> Arc<Continue> {
        let signal = Arc::<Continue>::default();
        let timeout = Box::pin(tokio::time::sleep(CONTINUE_TIMEOUT));
        self.held_back = Some(HeldBack { signal: Arc::clone(&signal), timeout });
        signal
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(held_back) = &mut self.held_back {
            if let Poll::Ready(reason) = self.grant.poll_ended(Waiter::RequestBody, cx) {
                return Poll::Ready(Some(Err(ended(reason))));
            }
            ready!(held_back.poll_over(cx));
            self.held_back = None;
        }
        let Poll::Ready(polled) =
            poll_body(&mut self.body, &self.grant, Waiter::RequestBody, self.idle_timeout, cx)
        else {
            self.waiting_since.get_or_insert_with(Instant::now);
            return Poll::Pending;
        };
        if let Some(since) = self.waiting_since.take() {
            self.waited += since.elapsed();
        }
        let Some(frame) = polled.transpose()? else { return Poll::Ready(None) };
        let frame = match frame.into_data() {
            Ok(data) => {
                self.received = self.received.saturating_add(data.len() as u64);
                Frame::data(data)
            }
            // Trailers of other requests have no use, and apps may take them for headers.
            Err(_) if !self.grpc => return Poll::Ready(None),
            Err(frame) => frame.into_trailers().map_or(Frame::data(Bytes::new()), |mut trailers| {
                headers::trailers(&mut trailers);
                Frame::trailers(trailers)
            }),
        };
        let allowed = self.idle_timeout.saturating_add(Duration::from_secs(self.received / MIN_PACE));
        if self.waited > allowed && !self.grpc {
            return Poll::Ready(Some(Err(io::Error::other(BodyFault::TooSlow))));
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

/// Returns the fault of the client that made a request fail, if it was one.
pub(crate) fn client_fault(error: &hyper::Error) -> Option<BodyFault> {
    let source = std::error::Error::source(error)?.downcast_ref::<io::Error>()?;
    source.get_ref()?.downcast_ref::<BodyFault>().copied()
}

/// Polls a body that is subject to a grant.
#[inline]
pub(crate) fn poll_body(
    body: &mut Incoming,
    grant: &Grant,
    waiter: Waiter,
    idle_timeout: Duration,
    cx: &mut Context<'_>,
) -> Poll<Option<io::Result<Frame<Bytes>>>> {
    if let Poll::Ready(reason) = grant.poll_ended(waiter, cx) {
        return Poll::Ready(Some(Err(ended(reason))));
    }
    let polled = Pin::new(body).poll_frame(cx);
    if polled.is_ready() {
        grant.touch(idle_timeout);
    }
    polled.map(|frame| frame.map(|frame| frame.map_err(|_| io::Error::other(BodyFault::Malformed))))
}

fn ended(reason: EndReason) -> io::Error {
    let text = match reason {
        EndReason::Revoked => "access was revoked",
        EndReason::UpstreamGone => "the app is gone",
        EndReason::IdleTimeout => "idle timeout",
        EndReason::LeaseLapsed => "access cannot be verified",
        EndReason::ShutDown => "the gateway is stopping",
    };
    io::Error::new(io::ErrorKind::ConnectionAborted, text)
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Client(client) => client.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Client(client) => client.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Client(client) => client.body.size_hint(),
        }
    }
}
