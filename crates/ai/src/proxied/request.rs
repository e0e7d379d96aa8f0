//! The request to a credential's host: the workspace's, with the credential.

use std::io;
use std::time::Duration;

use futures_util::stream::unfold;
use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Request, StatusCode, Uri};
use http_body::Body;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Incoming;
use rigbox_proto::ai::Secret;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{Problem, remove_connection_headers};
use crate::public_hosts::RequestBody;

/// Builds the request to the credential's host.
pub(super) fn outgoing(
    request: Request<Incoming>,
    path: &str,
    secret: &Secret,
    idle: Duration,
) -> Result<Request<RequestBody>, Problem> {
    let invalid = |_| Problem::new(StatusCode::BAD_REQUEST, "bad_request", "The path is not valid.");
    let path: PathAndQuery = path.parse().map_err(invalid)?;
    let (parts, body) = request.into_parts();
    let uri = Uri::builder()
        .scheme("https")
        .authority(format!("{}:{}", secret.host, secret.port))
        .path_and_query(path)
        .build()
        .map_err(|_| unusable())?;
    // The body's own word on its length, which is what is sent; a client that names an empty one may have to.
    let has_length = parts.headers.contains_key(CONTENT_LENGTH) || !body.is_end_stream();
    let length = body.size_hint().exact();
    let mut outgoing = Request::new(bounded(body, idle));
    *outgoing.method_mut() = parts.method;
    *outgoing.uri_mut() = uri;
    let headers = outgoing.headers_mut();
    *headers = parts.headers;
    remove_connection_headers(headers);
    for name in [HOST, CONTENT_LENGTH, EXPECT] {
        headers.remove(name);
    }
    match length {
        Some(length) if has_length => drop(headers.insert(CONTENT_LENGTH, length.into())),
        Some(_) => {}
        // Of some methods hyper would not send a body without.
        None => drop(headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"))),
    }
    // What is packed cannot be searched for the credential.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let name = HeaderName::from_bytes(secret.header.as_bytes()).map_err(|_| unusable())?;
    let text = Zeroizing::new(secret.format.replace("{}", &secret.value));
    let mut value = HeaderValue::from_str(&text).map_err(|_| unusable())?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(outgoing)
}

fn unusable() -> Problem {
    let text = "The proxied secret cannot be sent. Store it anew.";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", text)
}

/// Returns a request's body, which breaks off if it stands still.
fn bounded(body: Incoming, idle: Duration) -> RequestBody {
    if body.is_end_stream() {
        return Empty::new().map_err(|never| match never {}).boxed_unsync();
    }
    let frames = unfold(body, move |mut body| async move {
        let frame = match timeout(idle, body.frame()).await {
            Ok(frame) => frame?.map_err(io::Error::other),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        Some((frame, body))
    });
    StreamBody::new(frames).boxed_unsync()
}
