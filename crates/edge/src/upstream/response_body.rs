//! Body of a response on its way to the client: one of our own, or the app's. The app's flows as fast as the client reads, fails when its
//! grant ends, and returns its connection to the pool at its end.

use std::future::poll_fn;
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
    /// Frame that was read ahead.
    pub(crate) first: Option<Frame<Bytes>>,
    /// Connection that the body arrives on, to be reused.
    pub(crate) reuse: Option<(Sender, Arc<Worker>)>,
}

/// Reads the first frame if it came with the head. A body that starts with an error can then still be answered in words.
pub(crate) async fn read_ahead(body: &mut Incoming) -> Result<Option<Frame<Bytes>>, hyper::Error> {
    let mut poll = async || poll_fn(|cx| Poll::Ready(Pin::new(&mut *body).poll_frame(cx))).await;
    if let Poll::Ready(frame) = poll().await {
        return frame.transpose();
    }
    // The connection's task decodes the body only once it is asked for, and runs before this one goes on.
    tokio::task::yield_now().await;
    match poll().await {
        Poll::Ready(frame) => frame.transpose(),
        Poll::Pending => Ok(None),
    }
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

/// Removes our names from trailers.
fn without_ours(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            headers::trailers(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
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
                if let Some(first) = app.first.take() {
                    return Poll::Ready(Some(Ok(without_ours(first))));
                }
                let polled = poll_body(&mut app.body, &app.grant, Waiter::Response, app.idle_timeout, cx);
                if polled.is_ready() {
                    app.reuse_at_end();
                }
                polled.map_ok(without_ours)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_none(),
            Self::App(app) => app.first.is_none() && app.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::App(app) => {
                let ahead = app.first.as_ref().and_then(Frame::data_ref).map_or(0, |data| data.len() as u64);
                let rest = app.body.size_hint();
                let mut hint = SizeHint::new();
                hint.set_lower(rest.lower().saturating_add(ahead));
                if let Some(upper) = rest.upper() {
                    hint.set_upper(upper.saturating_add(ahead));
                }
                hint
            }
        }
    }
}
