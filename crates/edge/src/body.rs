//! Bodies on their way, in both directions. They flow as fast as the slower side takes them, and end when their exchange is ended.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::Core;
use crate::exchange::{Ended, Exchange, Side};
use crate::pool::Sender;

/// A request's body.
#[derive(Debug)]
pub(crate) enum Up {
    Nothing,
    Client { body: Incoming, exchange: Arc<Exchange>, patience: Duration },
}

/// An answer's body.
#[derive(Debug)]
pub(crate) enum Down {
    Own(Option<Bytes>),
    App(App),
}

/// An app's answer.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) body: Incoming,
    pub(crate) exchange: Arc<Exchange>,
    pub(crate) patience: Duration,
    /// The connection it comes on, to be used again.
    pub(crate) back: Option<(Sender, Arc<Core>)>,
}

impl App {
    /// Lets the connection wait for its next request, once this answer has been read.
    pub(crate) fn give_back_at_end(&mut self) {
        if !self.body.is_end_stream() {
            return;
        }
        if let Some((sender, core)) = self.back.take()
            && let Some(upstream) = self.exchange.route.upstream()
            && core.control.known.is_current(&self.exchange.route)
        {
            core.pool.put(upstream, sender);
        }
    }
}

fn ended(why: Ended) -> io::Error {
    let text = match why {
        Ended::Forbidden => "it is not allowed any more",
        Ended::Gone => "the app has gone",
        Ended::Silent => "nothing has moved for too long",
        Ended::Unknown => "control is not heard",
    };
    io::Error::new(io::ErrorKind::ConnectionAborted, text)
}

fn poll_body(
    body: &mut Incoming,
    exchange: &Exchange,
    side: Side,
    patience: Duration,
    cx: &mut Context<'_>,
) -> Poll<Option<io::Result<Frame<Bytes>>>> {
    if let Poll::Ready(why) = exchange.poll_ended(side, cx) {
        return Poll::Ready(Some(Err(ended(why))));
    }
    let polled = Pin::new(body).poll_frame(cx);
    if polled.is_ready() {
        exchange.moves(patience);
    }
    polled.map(|frame| frame.map(|frame| frame.map_err(io::Error::other)))
}

impl Body for Up {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Self::Nothing => Poll::Ready(None),
            Self::Client { body, exchange, patience } => poll_body(body, exchange, Side::Up, *patience, cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Client { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Nothing => SizeHint::with_exact(0),
            Self::Client { body, .. } => body.size_hint(),
        }
    }
}

impl Body for Down {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Self::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::App(app) => {
                let polled = poll_body(&mut app.body, &app.exchange, Side::Down, app.patience, cx);
                if polled.is_ready() {
                    app.give_back_at_end();
                }
                polled
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
