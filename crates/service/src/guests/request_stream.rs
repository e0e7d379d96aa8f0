//! What we send to a guest while a call lasts, and the difference between its end and our vanishing.
//!
//! A gRPC client can only end its stream in order, and a stream that just stays open keeps the call alive after
//! everybody has forgotten it. So the body of a call whose feeder has vanished fails, and HTTP/2 resets the call.
//! (A tonic server may still see that as an end, hence `done` in `WriteFileInput`.)

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

/// Messages that wait for the guest.
const QUEUE_LEN: usize = 4;

/// What goes to a guest. Dropping it without `finish` resets the call.
pub struct Input<T>(mpsc::Sender<Option<T>>);

impl<T> Input<T> {
    /// Waits while the guest does not take more; nothing happens when it has gone.
    pub async fn send(&self, message: T) {
        let _ = self.0.send(Some(message)).await;
    }

    /// Ends the stream in order.
    pub async fn finish(&self) {
        let _ = self.0.send(None).await;
    }
}

/// In a request's extensions: true once its feeder has vanished.
#[derive(Clone)]
struct Disconnected(Arc<AtomicBool>);

/// A streaming request and what feeds it.
pub fn request_stream<T: Send + 'static>() -> (Input<T>, Request<impl Stream<Item = T> + Send + 'static>) {
    let (sender, receiver) = mpsc::channel(QUEUE_LEN);
    let vanished = Disconnected(Arc::default());
    let state = (receiver, vanished.clone());
    let stream = futures_util::stream::unfold(
        state,
        |(mut receiver, vanished): (mpsc::Receiver<Option<T>>, Disconnected)| async move {
            match receiver.recv().await {
                Some(Some(message)) => Some((message, (receiver, vanished))),
                Some(None) => None,
                None => {
                    vanished.0.store(true, Ordering::Release);
                    None
                }
            }
        },
    );
    let mut request = Request::new(stream);
    request.extensions_mut().insert(vanished);
    (Input(sender), request)
}

/// Makes the bodies of fed requests fail when their feeder has vanished.
pub fn guarded(request: http::Request<Body>) -> http::Request<Body> {
    match request.extensions().get::<Disconnected>().cloned() {
        None => request,
        Some(vanished) => request.map(|inner| Body::new(Guarded { inner, vanished })),
    }
}

struct Guarded {
    inner: Body,
    vanished: Disconnected,
}

impl HttpBody for Guarded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(context);
        if self.vanished.0.load(Ordering::Acquire) {
            return Poll::Ready(Some(Err(Status::cancelled("the caller has gone"))));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        !self.vanished.0.load(Ordering::Acquire) && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
