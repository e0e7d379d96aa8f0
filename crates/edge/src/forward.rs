//! Forwarding of an authorized request to its app, and of the app's response to the client.

use std::sync::Arc;
use std::time::Duration;

use http::header::{ALLOW, EXPECT, HOST, MAX_FORWARDS, TE, TRAILER};
use http::{HeaderValue, Method, Request, StatusCode, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;
use rigbox_gateway::active_grants::EndReason;
use rigbox_gateway::dial::DialError;
use rigbox_gateway::epochs::Change;
use rigbox_proto::headers::single_value;

use crate::context::{Authorized, Client, ForwardRequest};
use crate::decision::route::{AppState, Route};
use crate::error_pages::{self, Message, Response, ResponseForm};
use crate::request::headers::{self, Forwarding};
use crate::state::Worker;
use crate::upstream::pool::{ConnectError, FRESH_FOR, Sender};
use crate::upstream::request_body::{ClientBody, RequestBody};
use crate::upstream::response::{ForwardError, to_client};
use crate::upstream::response_body::read_ahead;
use crate::websocket;

/// Methods named in `Allow` where edge answers in an app's place.
const ALLOW_METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// Forwards a request.
pub(crate) async fn forward(
    forward_request: ForwardRequest<'_>,
    mut request: Box<Request<Incoming>>,
) -> Response {
    if let Some(response) = end_of_forwarding(&mut request, forward_request.classification.form) {
        return response;
    }
    let route = Arc::clone(&forward_request.authorized.grant.decision().route);
    let form = forward_request.classification.form;
    match route.state {
        AppState::Available(_) => {}
        AppState::Stopped => return error_pages::app_stopped(&route).render(form),
        AppState::WorkspaceNotRunning => return error_pages::workspace_not_running(&route).render(form),
    }
    let worker = forward_request.worker;
    let forwarded = if forward_request.classification.is_websocket {
        Box::pin(websocket::open(forward_request, request)).await
    } else {
        send(forward_request, request).await
    };
    forwarded.unwrap_or_else(|error| error_message(worker, &route, &error).render(form))
}

/// Counts a forwarding (RFC 9110, 7.6.2). Returns the response to a request that is to go no further.
fn end_of_forwarding<B>(request: &mut Request<B>, form: ResponseForm) -> Option<Response> {
    if !matches!(*request.method(), Method::OPTIONS | Method::TRACE) {
        return None;
    }
    let left: u32 = single_value(request.headers(), MAX_FORWARDS)?.parse().ok()?;
    if let Some(left) = left.checked_sub(1) {
        request.headers_mut().insert(MAX_FORWARDS, left.into());
        return None;
    }
    let mut response = if request.method() == Method::OPTIONS {
        error_pages::response(StatusCode::NO_CONTENT, None)
    } else {
        let text = "TRACE is not supported here. Send it to the app, with a larger Max-Forwards.";
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Message::new(status, "method_not_allowed", "Method not allowed", text).render(form)
    };
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(ALLOW_METHODS));
    Some(response)
}

fn error_message(worker: &Worker, route: &Route, error: &ForwardError) -> Message {
    let message = match error {
        ForwardError::Connect(error) => {
            // What control said about this VM may be stale; the next request asks again.
            if matches!(error, ConnectError::Dial(DialError::NoVm)) {
                let change = Change::Workspace(route.app.workspace.clone());
                worker.control.cache.epochs().advance(&change);
            }
            error_pages::connect_failed(error, route)
        }
        ForwardError::Response(_) => error_pages::app_failed(route),
        ForwardError::Body(fault) => error_pages::body_failed(*fault),
        ForwardError::Ended(reason) => error_pages::ended(*reason, route),
    };
    tracing::debug!(app = %route.name, %error, "app did not respond");
    message
}

async fn send(
    forward_request: ForwardRequest<'_>,
    request: Box<Request<Incoming>>,
) -> Result<Response, ForwardError> {
    let ForwardRequest { worker, client, host, authorized, classification } = forward_request;
    let form = classification.form;
    let grant = Arc::clone(&authorized.grant);
    // Only gRPC needs HTTP/2 to the app.
    let grpc = request.version() == Version::HTTP_2 && form == ResponseForm::Grpc;
    let request = to_app(worker, client, host, &authorized, request, grpc);
    let (response, first, reuse) = if grpc {
        (Box::pin(send_shared(worker, &authorized, request)).await?, None, None)
    } else {
        let (mut response, sender) = send_exclusive(worker, &authorized, request).await?;
        let first = grant.run_until_ended(read_ahead(response.body_mut())).await;
        let first = first.map_err(ForwardError::Ended)?.map_err(ForwardError::Response)?;
        (response, first, Some((sender, Arc::clone(worker))))
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(error_pages::app_failed(&grant.decision().route).render(form));
    }
    Ok(to_client(worker, grant, response, first, reuse))
}

fn to_app(
    worker: &Worker,
    client: &Client,
    host: HeaderValue,
    authorized: &Authorized,
    request: Box<Request<Incoming>>,
    grpc: bool,
) -> Request<RequestBody> {
    let (mut head, body) = request.into_parts();
    let trailers = headers::lists(&head.headers, &TE, "trailers");
    let expects = head.version == Version::HTTP_11
        && head
            .headers
            .get(EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let grant = &authorized.grant;
    let scheme = if grant.decision().route.secure { "https" } else { "http" };
    let forwarding = Forwarding { client: &client.address, scheme, host, version: head.version };
    headers::to_app(&mut head.headers, forwarding, authorized.identity.as_ref());
    if grpc {
        head.uri = absolute(&head.uri, head.headers.get(HOST));
        head.headers.remove(HOST);
        if trailers {
            head.headers.insert(TE, HeaderValue::from_static("trailers"));
        }
        head.version = Version::HTTP_2;
    } else {
        // The target as a path: a client of a proxy sends it whole, and so does HTTP/2.
        if head.uri.authority().is_some() {
            let path = head.uri.path_and_query().cloned();
            head.uri = path.map(Uri::from).unwrap_or_default();
        }
        head.version = Version::HTTP_11;
    }
    head.extensions.clear();
    if body.is_end_stream() {
        return Request::from_parts(head, RequestBody::Empty);
    }
    if !grpc {
        head.headers.remove(TRAILER);
    }
    let mut body = ClientBody::new(body, Arc::clone(grant), worker.limits.response, grpc);
    if !expects {
        return Request::from_parts(head, RequestBody::Client(Box::new(body)));
    }
    head.headers.insert(EXPECT, HeaderValue::from_static("100-continue"));
    let signal = body.hold_back();
    let mut request = Request::from_parts(head, RequestBody::Client(Box::new(body)));
    hyper::ext::on_informational(&mut request, move |response| {
        if response.status() == StatusCode::CONTINUE {
            signal.say();
        }
    });
    request
}

fn absolute(uri: &Uri, host: Option<&HeaderValue>) -> Uri {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(http::uri::Scheme::HTTP);
    parts.authority = host.and_then(|host| host.as_bytes().try_into().ok());
    parts.path_and_query = uri.path_and_query().cloned();
    Uri::from_parts(parts).unwrap_or_default()
}

/// Sends a request on a connection that is its own until the response has ended.
async fn send_exclusive(
    worker: &Worker,
    authorized: &Authorized,
    mut request: Request<RequestBody>,
) -> Result<(http::Response<Incoming>, Sender), ForwardError> {
    let Authorized { permit, grant, .. } = authorized;
    let upstream = grant.decision().route.upstream().ok_or(ForwardError::Ended(EndReason::UpstreamGone))?;
    loop {
        // The app may be closing an idle connection as we use it: then a request without effects is sent again. Any other goes on a
        // connection that was in use a moment ago, or on a new one.
        let retryable = is_retryable(&request);
        let max_idle = if retryable { Duration::MAX } else { FRESH_FOR };
        let taken = grant.run_until_ended(worker.pool.take(permit, upstream, max_idle)).await;
        let Some(mut sender) = taken.map_err(ForwardError::Ended)? else { break };
        let retry = retryable.then(|| Box::new(copy(&request)));
        let sent =
            grant.run_until_ended(sender.try_send_request(request)).await.map_err(ForwardError::Ended)?;
        match sent {
            Ok(response) => return Ok((response, sender)),
            Err(mut error) => match (error.take_message(), retry) {
                (Some(unsent), _) => request = unsent,
                (None, Some(copy)) => request = *copy,
                (None, None) => return Err(ForwardError::sending(error.into_error())),
            },
        }
    }
    let connected = grant.run_until_ended(Box::pin(worker.pool.connect(permit, upstream))).await;
    let mut sender = connected.map_err(ForwardError::Ended)??;
    let sent = grant.run_until_ended(sender.send_request(request)).await.map_err(ForwardError::Ended)?;
    Ok((sent.map_err(ForwardError::sending)?, sender))
}

fn is_retryable(request: &Request<RequestBody>) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS)
        && request.body().is_end_stream()
}

fn copy(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// Sends a request on an HTTP/2 connection that many share.
async fn send_shared(
    worker: &Worker,
    authorized: &Authorized,
    request: Request<RequestBody>,
) -> Result<http::Response<Incoming>, ForwardError> {
    let Authorized { permit, grant, .. } = authorized;
    let upstream = grant.decision().route.upstream().ok_or(ForwardError::Ended(EndReason::UpstreamGone))?;
    let sent = async {
        let mut sender = worker.pool.connect_shared(permit, upstream).await?;
        sender.ready().await.map_err(ForwardError::Response)?;
        sender.send_request(request).await.map_err(ForwardError::sending)
    };
    grant.run_until_ended(sent).await.map_err(ForwardError::Ended)?
}
