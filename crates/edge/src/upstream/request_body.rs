//! Body of a request on its way to the app. It flows as fast as the app reads, and fails when its grant ends.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use rigbox_gateway::active_grants::{EndReason, Waiter};

use crate::decision::access_request::Grant;

/// Body of a request to an app.
#[derive(Debug)]
pub(crate) enum RequestBody {
    Empty,
    Client { body: Incoming, grant: Arc<Grant>, idle_timeout: Duration },
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
    polled.map(|frame| frame.map(|frame| frame.map_err(io::Error::other)))
}

fn ended(reason: EndReason) -> io::Error {
    let text = match reason {
        EndReason::Revoked => "access was revoked",
        EndReason::UpstreamGone => "the app is gone",
        EndReason::IdleTimeout => "idle timeout",
        EndReason::LeaseLapsed => "access cannot be verified",
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
            Self::Client { body, grant, idle_timeout } => {
                poll_body(body, grant, Waiter::RequestBody, *idle_timeout, cx)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Client { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Client { body, .. } => body.size_hint(),
        }
    }
}
