//! Requests while they are open. Every route with an action runs in here, so that none can forget it: when its caller is no longer allowed
//! to make the request, its body and the response end, and the connection a moment later.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use axum::extract::{FromRequestParts, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http_body::{Frame, SizeHint};
use rigbox_core::authz::Action;
use rigbox_service::identity::authenticate::AuthError;
use rigbox_service::identity::open_requests::{Authenticated, OpenRequest};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::context::ApiContext;
use crate::error::ApiError;
use crate::extract::Caller;
use crate::server::ConnectionControl;
use crate::v1::exec::{self, ExecEvent};

/// Message to a client whose request has been ended.
pub(crate) const ENDED: &str = "Your API key or session was revoked or has expired. Sign in again.";

/// End of a request whose caller is no longer allowed to make it, as an extractor for what an upgraded connection does.
#[derive(Debug, Clone, Default)]
pub(crate) struct Revocation(CancellationToken);

impl Revocation {
    /// Waits for the end.
    pub(crate) async fn wait(&self) {
        self.0.cancelled().await;
    }
}

impl<S: Sync> FromRequestParts<S> for Revocation {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        // Only routes with an action can be revoked.
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}

/// Serves a request for `A` whose credential was read after `epoch`, for as long as its caller is allowed to make it.
pub(crate) async fn run<A: Action>(
    context: &ApiContext,
    epoch: i64,
    authenticated: Authenticated,
    mut request: Request,
    next: Next,
) -> Response {
    let connection = request.extensions().get::<ConnectionControl>().cloned();
    let closes = connection.clone();
    let abort = Box::new(move || {
        if let Some(connection) = &closes {
            connection.close();
        }
    });
    let open = context.open_requests.register::<A>(epoch, &authenticated, abort);
    request.extensions_mut().insert(Revocation(open.ended().clone()));
    let audit = context.audit_recorder.clone();
    request.extensions_mut().insert(Caller::<A>::new(authenticated.principal, Arc::clone(&open), audit));
    if !request.method().is_safe() {
        // A change is not given up half-way, but gets no more of its content.
        let request = request.map(|body| Body::new(RevocableBody::new(body, &open, None)));
        return open_response(next.run(request).await, open, connection);
    }
    let response = tokio::select! {
        response = next.run(request) => response,
        () = open.ended().cancelled() => return ApiError::from(AuthError::Unknown).into_response(),
    };
    open_response(response, open, connection)
}

/// Binds a response that goes on to its request.
fn open_response(
    response: Response,
    open: Arc<OpenRequest>,
    connection: Option<ConnectionControl>,
) -> Response {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        open.respond();
        if let Some(connection) = connection {
            connection.upgraded(open);
        }
        return response;
    }
    if response.body().size_hint().exact().is_some() {
        return response;
    }
    open.respond();
    let is_lines = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/x-ndjson");
    let last_line = is_lines.then(|| exec::event(&ExecEvent::failed("unauthorized", ENDED)));
    response.map(|body| Body::new(RevocableBody::new(body, &open, last_line)))
}

/// Body that ends with its request: with a last line, or with an error.
struct RevocableBody {
    inner: Option<Body>,
    last_line: Option<Bytes>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    _open: Arc<OpenRequest>,
}

impl RevocableBody {
    fn new(body: Body, open: &Arc<OpenRequest>, last_line: Option<Bytes>) -> Self {
        let ended = Box::pin(open.ended().clone().cancelled_owned());
        Self { inner: Some(body), last_line, ended, _open: Arc::clone(open) }
    }
}

impl HttpBody for RevocableBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(inner) = self.inner.as_mut() else { return Poll::Ready(None) };
        let frame = Pin::new(inner).poll_frame(context);
        if self.ended.as_mut().poll(context).is_pending() {
            return frame;
        }
        // What served it ends here.
        self.inner = None;
        Poll::Ready(Some(match self.last_line.take() {
            Some(line) => Ok(Frame::data(line)),
            None => Err(axum::Error::new(io::Error::new(io::ErrorKind::ConnectionAborted, ENDED))),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}
