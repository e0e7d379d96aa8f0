//! Path of one request: classify it, find its app, decide whether it has access, and only then forward it.

use std::sync::Arc;

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, LOCATION, ORIGIN,
    UPGRADE, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use rigbox_core::app_access::{CredentialSource, Initiator, Refusal, RequestKind};
use rigbox_gateway::connections::BusyGuard;
use rigbox_proto::headers::single_value;

use crate::context::{Authorized, Client, ForwardRequest};
use crate::decision::access_request::{AccessRequest, Decision};
use crate::decision::authorize::{self, AccessError};
use crate::decision::control::{Asker, ControlError, Credential};
use crate::decision::route::Route;
use crate::error::ConnectionClosed;
use crate::error_pages::{self, Message, Response};
use crate::forward;
use crate::inbound::http1::{self, MALFORMED};
use crate::platform_paths;
use crate::request::classify::{self, Classification};
use crate::request::headers::KEY;
use crate::request::host::Host;
use crate::request::path::{PathOwner, has_token, path_owner};
use crate::state::Worker;

/// Attempts of a decision that keeps being overtaken by changes.
const MAX_ATTEMPTS: usize = 4;
/// Maximum length of a preflight header that is echoed.
const MAX_CORS_LIST_LEN: usize = 4096;

/// Responds to a request, unless its connection (which is not `busy` then) is being closed.
pub(crate) async fn handle(
    worker: Arc<Worker>,
    client: Arc<Client>,
    request: Box<Request<Incoming>>,
    busy: Option<BusyGuard>,
) -> Result<Response, ConnectionClosed> {
    let busy = busy.ok_or(ConnectionClosed)?;
    // As the reader of HTTP/1 sees it: it reads no further until the response says what follows.
    let may_upgrade = request.headers().contains_key(UPGRADE) && request.body().is_end_stream();
    let response = respond(&worker, &client, request, busy).await;
    if may_upgrade {
        client.upgrade.decline();
    }
    Ok(response.unwrap_or_else(|refusal| *refusal))
}

/// Returns the response. A refusal is boxed, because it is large and rare.
async fn respond(
    worker: &Arc<Worker>,
    client: &Arc<Client>,
    request: Box<Request<Incoming>>,
    busy: BusyGuard,
) -> Result<Response, Box<Response>> {
    let classification = Classification::of(&request);
    let form = classification.form;
    let refuse = |message: &Message| Box::new(message.render(form));
    let headers = request.headers();
    if let Some(problem) = headers.get(MALFORMED) {
        let problem = String::from_utf8_lossy(problem.as_bytes());
        let text = format!("The request is malformed: {problem}.");
        let mut message = error_pages::bad_request("malformed_request", text);
        message.status = http1::status_of(&problem);
        return Err(refuse(&message));
    }
    let host = Host::of(&request)
        .map_err(|problem| refuse(&error_pages::bad_request("bad_host", problem.to_string())))?;
    if let Some(port) = client.redirect_to_tls {
        return Err(Box::new(redirect_to_tls(&host.name, port, &request)));
    }
    let owner = check_target(&request, classification).map_err(|message| refuse(&message))?;
    if !worker.control.cache.epochs().leased(worker.limits.control).await {
        return Err(refuse(&error_pages::unavailable()));
    }
    if let PathOwner::Platform(rest) = owner {
        let route = find_route(worker, client, &host.name).await.map_err(|message| refuse(&message))?;
        let keys = worker.assertion_keys.get();
        let response =
            platform_paths::respond(&worker.control, client.ip, &keys, &route, &request, rest, form);
        return Ok(Box::pin(response).await);
    }
    if owner == PathOwner::Ambiguous {
        return Ok(platform_paths::not_found(form));
    }
    let authorized = authorize(worker, client, &host.name, &request, classification, &busy).await?;
    let forward_request = ForwardRequest { worker, client, host: host.text, authorized, classification };
    Ok(forward::forward(forward_request, request).await)
}

/// Checks the request's target. Returns whose path it is.
fn check_target<B>(request: &Request<B>, classification: Classification) -> Result<PathOwner<'_>, Message> {
    let uri = request.uri();
    // Of CONNECT requests, only the extended ones (RFC 8441) have a path.
    let path = uri.path();
    if !path.starts_with('/') && path != "*" {
        return Err(error_pages::bad_request("bad_address", "The request target is not a path."));
    }
    if request.method() == Method::CONNECT && !classification.is_websocket {
        return Err(error_pages::bad_request("bad_method", "CONNECT is supported for WebSockets only."));
    }
    if uri.path_and_query().is_some_and(|target| has_token(target.as_str())) {
        let text = "There is a key in the URL, where logs may keep it. Revoke it, and send keys in the \
                    header X-Rigbox-Key.";
        return Err(error_pages::bad_request("key_in_url", text));
    }
    Ok(path_owner(path))
}

/// Returns path and query of a request.
fn target<B>(request: &Request<B>) -> &str {
    request.uri().path_and_query().map_or("/", |target| target.as_str())
}

/// Redirects from http to https.
fn redirect_to_tls<B>(host: &str, port: u16, request: &Request<B>) -> Response {
    let path = target(request);
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    let mut response = error_pages::response(StatusCode::PERMANENT_REDIRECT, None);
    if let Ok(url) = HeaderValue::from_str(&format!("https://{host}{port}{path}")) {
        response.headers_mut().insert(LOCATION, url);
    }
    response
}

async fn find_route(worker: &Worker, client: &Client, host: &str) -> Result<Arc<Route>, Message> {
    match worker.control.route(host, Asker::Client(client.ip)).await {
        Ok(Some(route)) => Ok(route),
        Ok(None) if worker.is_below_domain(host) => Err(error_pages::no_app(host)),
        Ok(None) => Err(error_pages::unknown_host(host)),
        Err(error) => {
            tracing::warn!(%error, host, "failed to resolve a host");
            Err(error_pages::unavailable())
        }
    }
}

/// Decides about a request, and registers its grant, where a change will find it.
async fn authorize<B>(
    worker: &Worker,
    client: &Client,
    host: &str,
    request: &Request<B>,
    classification: Classification,
    busy: &BusyGuard,
) -> Result<Authorized, Box<Response>> {
    let form = classification.form;
    let (headers, asker) = (request.headers(), Asker::Client(client.ip));
    for _ in 0..MAX_ATTEMPTS {
        let route =
            find_route(worker, client, host).await.map_err(|message| Box::new(message.render(form)))?;
        let kind = classify::kind(request, classification, &route.cors_origins);
        let initiator = classify::initiator(request, &route.origin, kind == RequestKind::WebSocket);
        let credential = credential(headers, route.secure);
        // What looks like a navigation may be a request of a sibling's page. The app's own pages prove themselves by `Referer`.
        let is_unproven = kind == RequestKind::Navigation
            && initiator == Initiator::CrossOrigin
            && credential.as_ref().is_some_and(|credential| credential.source == CredentialSource::Cookie)
            && !classify::has_fetch_metadata(headers);
        let kind = if is_unproven { RequestKind::Other } else { kind };
        let access_request = AccessRequest { credential, kind, initiator };
        let access = match authorize::authorize(&worker.control, &route, &access_request, asker).await {
            Ok(access) => access,
            Err(AccessError::Refused(Refusal::CrossSite)) if is_unproven => {
                return Err(Box::new(platform_paths::bounce(target(request), form)));
            }
            Err(AccessError::Refused(refusal)) => {
                let credential = access_request.credential.as_ref();
                return Err(Box::new(refused(refusal, &route, request, credential, classification)));
            }
            Err(AccessError::Control(ControlError::TooManyAttempts)) => {
                return Err(Box::new(error_pages::too_many_attempts().render(form)));
            }
            Err(AccessError::Control(error)) => {
                tracing::warn!(%error, "failed to identify a credential");
                return Err(Box::new(error_pages::unavailable().render(form)));
            }
        };
        let user = access.identity.as_deref().filter(|_| access.permit.user().is_some());
        let decision = Decision {
            request: access_request,
            route: Arc::clone(&route),
            identity_forwarded: user.is_some(),
        };
        let expires_at_ms = user.map_or(i64::MAX, |user| user.until_ms);
        let grant = worker.grants.start(decision, expires_at_ms, busy.clone(), worker.limits.response);
        // Checked after the grant is registered, so that a change finds it in the cache or among the grants.
        let cache = &worker.control.cache;
        let current = cache.epochs().is_leased()
            && cache.is_current(&route)
            && access.identity.as_ref().is_none_or(|identity| cache.is_current_identity(identity));
        if current {
            let identity = user.and_then(|user| user.forwarded.clone());
            return Ok(Authorized { permit: access.permit, grant, identity });
        }
    }
    Err(Box::new(error_pages::unavailable().render(form)))
}

/// Returns the credential of a request. A header, which a program sets deliberately, goes before a cookie.
fn credential(headers: &HeaderMap, secure: bool) -> Option<Credential> {
    if headers.contains_key(KEY) {
        // Two keys count as an invalid one.
        let key = single_value(headers, KEY).unwrap_or_default();
        return Some(Credential::new(CredentialSource::Header, key));
    }
    Credential::session(headers, secure)
}

fn refused<B>(
    refusal: Refusal,
    route: &Route,
    request: &Request<B>,
    credential: Option<&Credential>,
    classification: Classification,
) -> Response {
    let form = classification.form;
    match refusal {
        Refusal::SignIn => platform_paths::sign_in(route, request.headers(), form, target(request)),
        Refusal::PreflightAllowed => preflight(request.headers()),
        Refusal::InvalidCredential
            if credential.is_some_and(|credential| credential.source == CredentialSource::Cookie) =>
        {
            let mut response = error_pages::refused(refusal).render(form);
            platform_paths::remove_session(&mut response, route);
            response
        }
        refusal => error_pages::refused(refusal).render(form),
    }
}

/// Allows a preflight of a listed origin.
fn preflight(headers: &HeaderMap) -> Response {
    let mut response = error_pages::response(StatusCode::NO_CONTENT, None);
    let bounded = |name| headers.get(name).filter(|value| value.len() <= MAX_CORS_LIST_LEN).cloned();
    let pairs = [
        (ACCESS_CONTROL_ALLOW_ORIGIN, bounded(ORIGIN)),
        (ACCESS_CONTROL_ALLOW_METHODS, bounded(ACCESS_CONTROL_REQUEST_METHOD)),
        (ACCESS_CONTROL_ALLOW_HEADERS, bounded(ACCESS_CONTROL_REQUEST_HEADERS)),
        (ACCESS_CONTROL_MAX_AGE, Some(HeaderValue::from_static("60"))),
        (VARY, Some(HeaderValue::from_static("origin"))),
    ];
    for (name, value) in pairs {
        if let Some(value) = value {
            response.headers_mut().insert(name, value);
        }
    }
    response
}
