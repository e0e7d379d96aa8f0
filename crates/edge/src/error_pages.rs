//! Responses of edge itself: a small page for browsers, JSON for programs, a status for gRPC. They are not stored, and run no script.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, LOCATION, REFERRER_POLICY, RETRY_AFTER,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, StatusCode};
use maud::{DOCTYPE, html};
use rigbox_core::app_access::Refusal;
use rigbox_gateway::active_grants::EndReason;
use rigbox_gateway::dial::DialError;

use crate::decision::route::Route;
use crate::upstream::pool::ConnectError;
use crate::upstream::request_body::BodyFault;
use crate::upstream::response_body::ResponseBody;

/// Response to a client.
pub(crate) type Response = http::Response<ResponseBody>;

/// Policy of our pages: they load nothing, run nothing, and cannot be framed.
const CONTENT_POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'";
/// Name and mark, as on the console's pages.
const STYLE: &str = ":root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}\
body{max-width:32rem;margin:10vh auto;padding:0 1rem;color:#1d2330;background:#fff}\
header{display:flex;align-items:center;gap:.5rem;font-weight:600;opacity:.8}\
header::before{content:\"\";width:1rem;height:1rem;border:.2rem solid #0b57d0;border-radius:.25rem}\
h1{font-size:1.4rem}a{color:#0b57d0}\
@media(prefers-color-scheme:dark){body{color:#e4e7ee;background:#14171d}a{color:#8ab4f8}header::before{border-color:#8ab4f8}}";

/// Form of a response of our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ResponseForm {
    Page,
    Json,
    Grpc,
}

/// Message of edge to a client.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) title: &'static str,
    pub(crate) text: String,
    /// Link for people: URL and text.
    pub(crate) link: Option<(Cow<'static, str>, &'static str)>,
}

impl Message {
    pub(crate) fn new(
        status: StatusCode,
        code: &'static str,
        title: &'static str,
        text: impl Into<String>,
    ) -> Self {
        Self { status, code, title, text: text.into(), link: None }
    }

    /// Renders the message in the given form.
    pub(crate) fn render(&self, form: ResponseForm) -> Response {
        match form {
            ResponseForm::Page => self.page(),
            ResponseForm::Json => self.json(),
            ResponseForm::Grpc => self.grpc(),
        }
    }

    /// Renders a gRPC status beside the one of HTTP ("Trailers-Only").
    fn grpc(&self) -> Response {
        let code = match self.status.as_u16() {
            400 => "3",
            403 => "7",
            404 | 421 => "5",
            _ => "14",
        };
        let mut response = response(self.status, None);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from_static(code));
        if let Ok(text) = HeaderValue::from_str(&self.text) {
            headers.insert("grpc-message", text);
        }
        response
    }

    fn page(&self) -> Response {
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    title { (self.title) " - Rigbox" }
                    style { (maud::PreEscaped(STYLE)) }
                }
                body {
                    header { "Rigbox" }
                    h1 { (self.title) }
                    p { (self.text) }
                    @if let Some((url, text)) = &self.link {
                        p { a href=(url) { (text) } }
                    }
                }
            }
        };
        self.with_content(page.into_string().into(), "text/html; charset=utf-8")
    }

    fn json(&self) -> Response {
        let document = serde_json::json!({ "error": { "code": self.code, "message": self.text } });
        self.with_content(document.to_string().into(), "application/json")
    }

    fn with_content(&self, content: Bytes, content_type: &'static str) -> Response {
        let mut response = response(self.status, Some(content));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}

/// Returns a response of our own, which is not to be stored.
pub(crate) fn response(status: StatusCode, content: Option<Bytes>) -> Response {
    let mut response = http::Response::new(ResponseBody::Own(content));
    *response.status_mut() = status;
    let pairs: [(HeaderName, &'static str); 4] = [
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CONTENT_SECURITY_POLICY, CONTENT_POLICY),
    ];
    for (name, value) in pairs {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Returns a 302 to `url`, or `None` if that is not a valid header value.
pub(crate) fn redirect(url: &str) -> Option<Response> {
    let mut response = response(StatusCode::FOUND, None);
    response.headers_mut().insert(LOCATION, HeaderValue::from_str(url).ok()?);
    Some(response)
}

pub(crate) fn bad_request(code: &'static str, text: impl Into<String>) -> Message {
    Message::new(StatusCode::BAD_REQUEST, code, "Bad request", text)
}

pub(crate) fn no_app(host: &str) -> Message {
    let text = format!("App {host} not found. Check the spelling of the address.");
    Message::new(StatusCode::NOT_FOUND, "app_not_found", "App not found", text)
}

pub(crate) fn unknown_host(host: &str) -> Message {
    let text = format!("This server has no app for the host {host}.");
    Message::new(StatusCode::MISDIRECTED_REQUEST, "unknown_host", "Unknown host", text)
}

pub(crate) fn unavailable() -> Message {
    Message::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "control_unavailable",
        "Temporarily unavailable",
        "Your access to this app cannot be checked at the moment. Try again in a few seconds.",
    )
}

/// Returns the message to a client that tries credentials.
pub(crate) fn too_many_attempts() -> Message {
    Message::new(
        StatusCode::TOO_MANY_REQUESTS,
        "rate_limited",
        "Too many attempts",
        "Too many invalid sessions or keys came from your address. Try again in a minute.",
    )
}

/// Returns the message where a workspace has all its WebSockets.
pub(crate) fn too_many_websockets() -> Message {
    Message::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "busy",
        "Too many connections",
        "The apps of this workspace have as many WebSockets as there may be. Close some, or try again later.",
    )
}

/// Returns the message of a refusal.
pub(crate) fn refused(refusal: Refusal) -> Message {
    let (code, title, text) = match refusal {
        Refusal::SignIn | Refusal::MissingCredential => (
            "credential_required",
            "Sign-in required",
            "This app is not public. Sign in with a browser, or send an API key in the header X-Rigbox-Key.",
        ),
        Refusal::InvalidCredential => (
            "bad_credential",
            "Your session is invalid or has expired",
            "Your session or API key is invalid or has expired. Sign in again, or send a valid API key in the \
             header X-Rigbox-Key.",
        ),
        Refusal::NotAllowed => (
            "not_allowed",
            "You don't have access",
            "This app is not shared with you. Ask its owner to share it with your email address.",
        ),
        Refusal::CrossSite => (
            "foreign_site",
            "Cross-site request blocked",
            "This request was caused by a page of another site, so your session was not used. Programs can send \
             an API key in the header X-Rigbox-Key.",
        ),
        Refusal::PreflightAllowed | Refusal::PreflightDenied => (
            "origin_not_allowed",
            "Origin not allowed",
            "The origin is not in the app's cors_origins. The app's owner can add it.",
        ),
    };
    let mut message = Message::new(StatusCode::FORBIDDEN, code, title, text);
    if matches!(refusal, Refusal::InvalidCredential | Refusal::MissingCredential) {
        message.link = Some(("/.rigbox/sign-in".into(), "Sign in"));
    }
    message
}

pub(crate) fn app_stopped(route: &Route) -> Message {
    let name = &route.name;
    let text = format!("The app {name} is stopped. Its owner can start it: rig app start {name}");
    Message::new(StatusCode::SERVICE_UNAVAILABLE, "app_stopped", "App stopped", text)
}

pub(crate) fn workspace_not_running(route: &Route) -> Message {
    let text = format!(
        "The workspace of {} is not running. Its owner can start it: rig workspace start",
        route.name
    );
    Message::new(StatusCode::SERVICE_UNAVAILABLE, "workspace_down", "Workspace not running", text)
}

/// Returns the message for a failure to connect to an app.
pub(crate) fn connect_failed(error: &ConnectError, route: &Route) -> Message {
    let port = route.upstream().map_or(0, |upstream| upstream.port);
    let name = &route.name;
    match error {
        ConnectError::Dial(DialError::NoVm) => workspace_not_running(route),
        ConnectError::Dial(DialError::NotListening) => Message::new(
            StatusCode::BAD_GATEWAY,
            "app_not_listening",
            "App not listening",
            format!(
                "No server that can be reached listens on port {port} in the workspace of {name}. Start it there, bound to 0.0.0.0:{port}, not to 127.0.0.1."
            ),
        ),
        ConnectError::Dial(DialError::TimedOut) => Message::new(
            StatusCode::GATEWAY_TIMEOUT,
            "app_timeout",
            "App timed out",
            format!(
                "The workspace of {name} did not accept a connection to port {port} in time. Try again, or restart the workspace."
            ),
        ),
        ConnectError::Dial(DialError::NotListed | DialError::NotPermitted | DialError::Node(_)) => {
            Message::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "app_not_ready",
                "App not ready",
                format!("The app {name} cannot be reached yet. Try again in a few seconds."),
            )
        }
        ConnectError::Http(_) => app_failed(route),
    }
}

pub(crate) fn app_failed(route: &Route) -> Message {
    let text = format!(
        "The app {} closed the connection or sent an invalid HTTP response. Check its log.",
        route.name
    );
    Message::new(StatusCode::BAD_GATEWAY, "app_failed", "Invalid response from the app", text)
}

/// Returns the message for a request whose body failed.
pub(crate) fn body_failed(fault: BodyFault) -> Message {
    match fault {
        BodyFault::Malformed => bad_request(
            "malformed_body",
            "The request body is malformed, or ended before its length. Send it again, whole.",
        ),
        BodyFault::TooSlow => Message::new(
            StatusCode::REQUEST_TIMEOUT,
            "body_too_slow",
            "Request too slow",
            "The request body arrives too slowly. Send it again, at 500 bytes a second or more.",
        ),
    }
}

/// Returns the message for a grant that ended before its response started.
pub(crate) fn ended(reason: EndReason, route: &Route) -> Message {
    match reason {
        EndReason::Revoked => refused(Refusal::NotAllowed),
        EndReason::UpstreamGone => workspace_not_running(route),
        EndReason::LeaseLapsed | EndReason::ShutDown => unavailable(),
        EndReason::IdleTimeout => Message::new(
            StatusCode::GATEWAY_TIMEOUT,
            "app_timeout",
            "App timed out",
            format!("The app {} took too long to respond. Check its log.", route.name),
        ),
    }
}
