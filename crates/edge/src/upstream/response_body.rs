//! Body of a response on its way to the client: one of our own, or the app's. The app's flows as fast as the client reads, fails when its
//! grant ends, and returns its connection to the pool at its end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use rigbox_gateway::active_grants::Waiter;

use crate::decision::access_request::Grant;
use crate::request::headers;
use crate::state::Worker;
use crate::upstream::pool::Sender;
use crate::upstream::request_body::poll_body;

/// Body of a response.
#[derive(Debug)]
pub(crate) enum ResponseBody {
    Own(Option<Bytes>),
    App(AppBody),
}

/// Body of an app's response.
#[derive(Debug)]
pub(crate) struct AppBody {
    pub(crate) body: Incoming,
    pub(crate) grant: Arc<Grant>,
    pub(crate) idle_timeout: Duration,
    /// Connection that the body arrives on, to be reused.
    pub(crate) reuse: Option<(Sender, Arc<Worker>)>,
}

impl AppBody {
    /// Returns the connection to the pool once the body has been read.
    pub(crate) fn reuse_at_end(&mut self) {
        if !self.body.is_end_stream() {
            return;
        }
        let route = &self.grant.decision().route;
        if let Some((sender, worker)) = self.reuse.take()
            && let Some(upstream) = route.upstream()
            && worker.control.cache.is_current(route)
        {
            worker.pool.put(upstream, sender);
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Self::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::App(app) => {
                let polled = poll_body(&mut app.body, &app.grant, Waiter::Response, app.idle_timeout, cx);
                if polled.is_ready() {
                    app.reuse_at_end();
                }
                polled.map_ok(|frame| match frame.into_trailers() {
                    Ok(mut trailers) => {
                        headers::trailers(&mut trailers);
                        Frame::trailers(trailers)
                    }
                    Err(frame) => frame,
                })
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_none(),
            Self::App(app) => app.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::App(app) => app.body.size_hint(),
        }
    }
}
