//! Requests with a credential of the user's. `/proxy/NAME/…` goes to the credential's host, whatever the request says, and the credential is
//! added on the way. Redirects are not followed: where they lead, nothing is added.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, unfold};
use http::header::{self, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Incoming;
use rigbox_core::egress::HTTPS_PORT;
use rigbox_core::ids::WorkspaceId;
pub(crate) use rigbox_core::proxied_secret::PATH;
use rigbox_proto::ai::open_secret_response::Outcome;
use rigbox_proto::ai::{Secret, SecretReason};
use rigbox_shares::{Bounds, Place, Refused};
use serde_json::json;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::echo::{self, EchoSearch, Echoed};
use crate::public_hosts::RequestBody;
use crate::response::{ResponseBody, full};
use crate::state::State;
use crate::upstream::chain;

/// Requests at once.
pub(crate) const REQUESTS: Bounds = Bounds { total: 512, per_key: 32 };
/// Time for the first piece of an answer before its head passes.
const FIRST_PIECE_TIMEOUT: Duration = Duration::from_millis(100);
/// Headers of one connection (RFC 9110, section 7.6.1), and what names another way than the one taken.
const CONNECTION_HEADERS: [&str; 9] = [
    "connection",
    "forwarded",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];
/// Headers of an answer that speak of the host's own address.
const ADDRESS_HEADERS: [&str; 2] = ["alt-svc", "strict-transport-security"];

/// Answer in place of the host's.
struct Problem {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    fn response(self) -> Response<ResponseBody> {
        let body = json!({"error": {"code": self.code, "message": self.message}}).to_string();
        let mut response = Response::new(full(body.into()));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

/// Returns the answer to a request that the bridge refuses.
pub(crate) fn refused(text: &str) -> Response<ResponseBody> {
    Problem::new(StatusCode::FORBIDDEN, "forbidden", text).response()
}

/// Answers a request below [`PATH`].
pub(crate) async fn answer(
    state: &Arc<State>,
    workspace: &WorkspaceId,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    forward(state, workspace, request).await.unwrap_or_else(Problem::response)
}

async fn forward(
    state: &Arc<State>,
    workspace: &WorkspaceId,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Problem> {
    let hosts = state.public_hosts.as_ref().ok_or_else(|| {
        let text = "This installation reaches other hosts through a proxy, which proxied secrets do not use.";
        Problem::new(StatusCode::NOT_IMPLEMENTED, "not_available", text)
    })?;
    // A server answers TRACE with the request itself.
    if matches!(*request.method(), Method::TRACE | Method::CONNECT)
        || request.headers().contains_key(header::UPGRADE)
    {
        let text = "The proxy passes on plain requests: no TRACE, no CONNECT and no WebSocket.";
        return Err(Problem::new(StatusCode::NOT_IMPLEMENTED, "not_supported", text));
    }
    let place = state.proxied.take(workspace.clone()).map_err(|refused| {
        let text = match refused {
            Refused::Share(share) => {
                format!("This workspace has {share} requests open. Wait for one to end.")
            }
            Refused::Full(_) => "Too many requests are open on this host. Try again.".to_owned(),
        };
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", text)
    })?;
    let (name, path) = split(request.uri());
    let name = name.to_owned();
    let secret = open(state, workspace, &name).await?;
    let idle = state.limits.idle;
    let outgoing = outgoing(request, &path, &secret, idle)?;
    let sent = timeout(state.limits.first_byte, hosts.send(outgoing)).await;
    let host = &secret.host;
    let response = match sent {
        Err(_) => {
            let text = format!("{host} did not answer in time.");
            return Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, "host_timeout", text));
        }
        Ok(Err(error)) => {
            tracing::info!(%workspace, secret = name, error = %chain(&error), "the host of a proxied secret was not reached");
            // The reason would tell of this host's network.
            let text = format!("{host} was not reached by HTTPS at a public address.");
            return Err(Problem::new(StatusCode::BAD_GATEWAY, "host_not_reached", text));
        }
        Ok(Ok(response)) => response,
    };
    returned(response, &name, secret, idle, place).await
}

/// Splits a path into the name of a credential and what follows at its host.
fn split(uri: &Uri) -> (&str, String) {
    let rest = uri.path().strip_prefix(PATH).unwrap_or_default();
    let (name, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() { "/" } else { path };
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    (name, format!("{path}{query}"))
}

/// Gets a credential from control, for this request alone.
async fn open(state: &State, workspace: &WorkspaceId, name: &str) -> Result<Secret, Problem> {
    let unavailable = || {
        let text = "The proxied secret is not available now. Try again.";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", text)
    };
    match state.control.open_secret(workspace, name).await {
        Ok(Some(Outcome::Secret(secret))) => Ok(secret),
        Ok(Some(Outcome::Denied(denied))) => Err(match denied.reason() {
            SecretReason::NoSecret => Problem::new(StatusCode::NOT_FOUND, "not_found", denied.text),
            SecretReason::NotAllowed | SecretReason::Unspecified => {
                Problem::new(StatusCode::FORBIDDEN, "forbidden", denied.text)
            }
        }),
        Ok(None) => Err(unavailable()),
        Err(status) => {
            tracing::warn!(%workspace, %status, "failed to get a proxied secret");
            Err(unavailable())
        }
    }
}

/// Builds the request to the credential's host.
fn outgoing(
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
    let length = body.size_hint().exact().filter(|_| !body.is_end_stream());
    let mut outgoing = Request::new(bounded(body, idle));
    *outgoing.method_mut() = parts.method;
    *outgoing.uri_mut() = uri;
    let headers = outgoing.headers_mut();
    *headers = parts.headers;
    remove_connection_headers(headers);
    // The client makes the first one anew, and the others are read from the body itself.
    for name in [HOST, CONTENT_LENGTH, header::EXPECT] {
        headers.remove(name);
    }
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, length.into());
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

/// Removes what speaks of the connection that a message came on.
fn remove_connection_headers(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let is_of_connection = |name: &HeaderName| {
        named.contains(name)
            || CONNECTION_HEADERS.contains(&name.as_str())
            || name.as_str().starts_with("proxy-")
    };
    let removed: Vec<_> = headers.keys().filter(|name| is_of_connection(name)).cloned().collect();
    for name in removed {
        headers.remove(name);
    }
}

/// Returns the host's answer for the workspace, without the credential.
async fn returned(
    response: Response<Incoming>,
    name: &str,
    secret: Secret,
    idle: Duration,
    place: Place<WorkspaceId>,
) -> Result<Response<ResponseBody>, Problem> {
    let (mut parts, body) = response.into_parts();
    if parts.headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding.as_bytes() != b"identity") {
        let text = "The host's answer has an encoding that was not asked for.";
        return Err(Problem::new(StatusCode::BAD_GATEWAY, "host_failed", text));
    }
    let headers = &mut parts.headers;
    remove_connection_headers(headers);
    let echoes = |name: &HeaderName, value: &HeaderValue| {
        ADDRESS_HEADERS.contains(&name.as_str()) || echo::is_in(&secret.value, value.as_bytes())
    };
    let removed: Vec<_> =
        headers.iter().filter(|(name, value)| echoes(name, value)).map(|(name, _)| name.clone()).collect();
    for name in removed {
        headers.remove(name);
    }
    if let Some(location) = headers.get(LOCATION).and_then(|location| here(location, name, &secret)) {
        headers.insert(LOCATION, location);
    }
    let mut passing =
        Passing { body, search: EchoSearch::new(&secret.value), idle, is_over: false, _place: place };
    // Where the answer has the credential at once, there is still a head to say so in. A stream's may come long before its first piece.
    let first = timeout(FIRST_PIECE_TIMEOUT, passing.next()).await.ok().flatten();
    if let Some(Err(error)) = &first
        && error.kind() == io::ErrorKind::InvalidData
    {
        let text = format!("The answer of {} has the proxied secret in it, and was held back.", secret.host);
        return Err(Problem::new(StatusCode::BAD_GATEWAY, "secret_echoed", text));
    }
    let rest = unfold(passing, |mut passing| async move {
        let frame = passing.next().await?;
        Some((frame, passing))
    });
    Ok(Response::from_parts(parts, StreamBody::new(stream::iter(first).chain(rest)).boxed_unsync()))
}

/// Returns the address of a redirect within the credential's host as the workspace reaches it; none for others, which stay as they are.
fn here(location: &HeaderValue, name: &str, secret: &Secret) -> Option<HeaderValue> {
    let location = location.to_str().ok()?;
    let origin = format!("https://{}", secret.host);
    let after = |origin: &str| location.strip_prefix(origin);
    let at_default_port = (secret.port == u32::from(HTTPS_PORT)).then(|| after(&origin)).flatten();
    let path = after(&format!("{origin}:{}", secret.port)).or(at_default_port).unwrap_or(location);
    let is_path = path.starts_with('/') && !path.starts_with("//");
    is_path.then(|| HeaderValue::from_str(&format!("{PATH}{name}{path}")).ok())?
}

/// Body of an answer on its way.
struct Passing {
    body: Incoming,
    search: EchoSearch,
    idle: Duration,
    is_over: bool,
    _place: Place<WorkspaceId>,
}

impl Passing {
    async fn next(&mut self) -> Option<io::Result<Frame<Bytes>>> {
        while !self.is_over {
            let frame = match timeout(self.idle, self.body.frame()).await {
                Ok(frame) => frame,
                Err(_) => return Some(Err(io::ErrorKind::TimedOut.into())),
            };
            let bytes = match frame {
                None => {
                    self.is_over = true;
                    self.search.rest()
                }
                Some(Err(error)) => return Some(Err(io::Error::other(error))),
                // Trailers would have to be searched too, and next to nobody reads them.
                Some(Ok(frame)) => match self.search.pass(frame.into_data().unwrap_or_default()) {
                    Ok(bytes) => bytes,
                    Err(Echoed) => {
                        tracing::warn!("an answer that has its proxied secret in it was broken off");
                        return Some(Err(io::ErrorKind::InvalidData.into()));
                    }
                },
            };
            if !bytes.is_empty() {
                return Some(Ok(Frame::data(bytes)));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_names_the_credential_and_nothing_of_the_host() {
        for (uri, name, path) in [
            ("/proxy/github/repos?page=2", "github", "/repos?page=2"),
            ("/proxy/github", "github", "/"),
            ("/proxy/github/", "github", "/"),
            ("/proxy/github//evil.example/x", "github", "//evil.example/x"),
            ("/proxy//x", "", "/x"),
            ("/proxy/a%2fb/x", "a%2fb", "/x"),
            ("/proxy/github/../other/x", "github", "/../other/x"),
        ] {
            assert_eq!(split(&uri.parse().unwrap()), (name, path.to_owned()), "{uri}");
        }
    }

    #[test]
    fn redirect_stays_at_the_bridge_only_within_its_host() {
        let secret = Secret { host: "api.example.org".into(), port: 443, ..Secret::default() };
        let here = |location: &'static str| {
            let location = here(&HeaderValue::from_static(location), "name", &secret)?;
            Some(location.to_str().unwrap().to_owned())
        };
        for location in ["/x?y", "https://api.example.org/x?y", "https://api.example.org:443/x?y"] {
            assert_eq!(here(location).as_deref(), Some("/proxy/name/x?y"), "{location}");
        }
        for location in
            ["https://api.example.org.evil.example/x", "https://evil.example/x", "//evil.example/x", "x"]
        {
            assert_eq!(here(location), None, "{location}");
        }
    }

    #[test]
    fn headers_of_the_connection_do_not_pass() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("te", "trailers"),
            ("proxy-authorization", "Basic x"),
            ("accept", "*/*"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        remove_connection_headers(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
    }
}
