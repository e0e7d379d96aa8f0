//! Body of an answer, passed on in a task of its own that holds the request's places. A workspace that reads nothing, or a host that sends
//! nothing, ends it after a time.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rigbox_core::ids::WorkspaceId;
use rigbox_proto::ai::Secret;
use rigbox_shares::Place;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::echo::{EchoSearch, Echoed};

/// Pieces on their way.
const MAX_PIECES: usize = 8;

/// Places of a request: the workspace's, and its owner's.
pub(super) type Places = (Place<WorkspaceId>, Place<String>);
/// Piece of an answer. None is its end.
type Piece = io::Result<Option<Bytes>>;

/// Answer as the workspace gets it.
pub(super) struct Pieces {
    receiver: mpsc::Receiver<Piece>,
    has_ended: bool,
}

impl Pieces {
    /// Returns the next piece, or none at the answer's end. Where the task has ended without that, the answer breaks off.
    pub(super) async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if self.has_ended {
            return None;
        }
        let piece = self.receiver.recv().await.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()));
        self.has_ended = !matches!(piece, Ok(Some(_)));
        piece.transpose()
    }
}

/// Passes a body on, as long as the credential is not in it.
pub(super) fn pass(body: Incoming, secret: &Secret, idle: Duration, places: Places) -> Pieces {
    #[expect(clippy::disallowed_methods, reason = "bound: pieces of one answer on their way, per request")]
    let (sender, receiver) = mpsc::channel(MAX_PIECES);
    let search = EchoSearch::new(secret.value.as_bytes());
    tokio::spawn(async move {
        run(body, search, idle, &sender).await;
        drop(places);
    });
    Pieces { receiver, has_ended: false }
}

async fn run(mut body: Incoming, mut search: EchoSearch, idle: Duration, sender: &mpsc::Sender<Piece>) {
    loop {
        let frame = tokio::select! {
            frame = timeout(idle, body.frame()) => frame,
            () = sender.closed() => return,
        };
        let (bytes, last) = match frame {
            Err(_) => (Bytes::new(), Some(Err(io::ErrorKind::TimedOut.into()))),
            Ok(None) => (search.rest(), Some(Ok(None))),
            Ok(Some(Err(error))) => (Bytes::new(), Some(Err(io::Error::other(error)))),
            // Trailers would have to be searched too, and next to nobody reads them.
            Ok(Some(Ok(frame))) => match search.pass(frame.into_data().unwrap_or_default()) {
                Ok(bytes) => (bytes, None),
                Err(Echoed) => (Bytes::new(), Some(Err(io::ErrorKind::InvalidData.into()))),
            },
        };
        let data = (!bytes.is_empty()).then_some(Ok(Some(bytes)));
        let is_last = last.is_some();
        for piece in data.into_iter().chain(last) {
            if !matches!(timeout(idle, sender.send(piece)).await, Ok(Ok(()))) {
                return;
            }
        }
        if is_last {
            return;
        }
    }
}
