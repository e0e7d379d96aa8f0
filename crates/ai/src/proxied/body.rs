//! Body of an answer, passed on in a task of its own that holds the request's places. A workspace that reads nothing, or a host that sends
//! nothing, ends it after a time.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
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
/// Piece of an answer.
type Piece = io::Result<Frame<Bytes>>;

/// Passes a body on, as long as the credential is not in it.
pub(super) fn pass(body: Incoming, secret: &Secret, idle: Duration, places: Places) -> mpsc::Receiver<Piece> {
    #[expect(clippy::disallowed_methods, reason = "bound: pieces of one answer on their way, per request")]
    let (sender, receiver) = mpsc::channel(MAX_PIECES);
    let search = EchoSearch::new(secret.value.as_bytes());
    tokio::spawn(async move {
        run(body, search, idle, &sender).await;
        drop(places);
    });
    receiver
}

async fn run(mut body: Incoming, mut search: EchoSearch, idle: Duration, sender: &mpsc::Sender<Piece>) {
    loop {
        let frame = tokio::select! {
            frame = timeout(idle, body.frame()) => frame,
            () = sender.closed() => return,
        };
        let (piece, is_last) = match frame {
            Err(_) => (Err(io::ErrorKind::TimedOut.into()), true),
            Ok(None) => (Ok(search.rest()), true),
            Ok(Some(Err(error))) => (Err(io::Error::other(error)), true),
            // Trailers would have to be searched too, and next to nobody reads them.
            Ok(Some(Ok(frame))) => match search.pass(frame.into_data().unwrap_or_default()) {
                Ok(bytes) => (Ok(bytes), false),
                Err(Echoed) => (Err(io::ErrorKind::InvalidData.into()), true),
            },
        };
        let is_empty = piece.as_ref().is_ok_and(Bytes::is_empty);
        let is_sent =
            is_empty || matches!(timeout(idle, sender.send(piece.map(Frame::data))).await, Ok(Ok(())));
        if is_last || !is_sent {
            return;
        }
    }
}
