//! Request streams to guests, which tell an orderly end from a disconnected caller.
//!
//! A gRPC client can only end its stream in order, and a stream that stays open keeps the call alive after
//! its sender is gone. So the body of a call whose sender was dropped fails, and HTTP/2 resets the call. (A
//! tonic server may still see that as an end, hence `done` in `WriteFileInput`.)

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::{Request, Status};

/// Messages queued for the guest.
const QUEUE_LEN: usize = 4;

/// Sender of a request stream. Dropping it without `finish` resets the call.
pub struct Input<T>(mpsc::Sender<Option<T>>);

impl<T> Input<T> {
    /// Sends a message. Waits while the guest does not read; does nothing if the call has ended.
    pub async fn send(&self, message: T) {
        let _ = self.0.send(Some(message)).await;
    }

    /// Ends the stream in order.
    pub async fn finish(&self) {
        let _ = self.0.send(None).await;
    }
}

/// Request extension: true once the sender was dropped.
#[derive(Clone)]
struct Disconnected(Arc<AtomicBool>);

/// Creates a streaming request and its sender.
pub fn request_stream<T: Send + 'static>() -> (Input<T>, Request<impl Stream<Item = T> + Send + 'static>) {
    #[expect(
        clippy::disallowed_methods,
        reason = "bound: messages of one call to a guest; the call holds a place of a share"
    )]
    let (sender, receiver) = mpsc::channel(QUEUE_LEN);
    let disconnected = Disconnected(Arc::default());
    let state = (receiver, disconnected.clone());
    let stream = futures_util::stream::unfold(
        state,
        |(mut receiver, disconnected): (mpsc::Receiver<Option<T>>, Disconnected)| async move {
            match receiver.recv().await {
                Some(Some(message)) => Some((message, (receiver, disconnected))),
                Some(None) => None,
                None => {
                    disconnected.0.store(true, Ordering::Release);
                    None
                }
            }
        },
    );
    let mut request = Request::new(stream);
    request.extensions_mut().insert(disconnected);
    (Input(sender), request)
}

/// Makes the body of a request fail once its sender was dropped.
pub fn reset_on_disconnect(request: http::Request<Body>) -> http::Request<Body> {
    match request.extensions().get::<Disconnected>().cloned() {
        None => request,
        Some(disconnected) => request.map(|inner| Body::new(ResetOnDisconnect { inner, disconnected })),
    }
}

struct ResetOnDisconnect {
    inner: Body,
    disconnected: Disconnected,
}

impl HttpBody for ResetOnDisconnect {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(context);
        if self.disconnected.0.load(Ordering::Acquire) {
            return Poll::Ready(Some(Err(Status::cancelled("the caller has disconnected"))));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        !self.disconnected.0.load(Ordering::Acquire) && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
