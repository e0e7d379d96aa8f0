//! Our own answers: a small page for browsers, JSON for others. They are stored nowhere and run nothing.

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, LOCATION, REFERRER_POLICY, RETRY_AFTER,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use maud::{DOCTYPE, html};
use rigbox_core::app_access::Refusal;

use crate::body::Down;
use crate::dial::DialError;
use crate::exchange::Ended;
use crate::facts;
use crate::pool::ConnectError;
use crate::route::Route;

/// What every request is answered with.
pub(crate) type Answer = Response<Down>;

/// Our pages load nothing, run nothing and stand in no frame.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'";
const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:36rem;margin:15vh auto;padding:0 1rem;\
color:#1d2330;background:#fff}h1{font-size:1.3rem}a{color:#0b57d0}\
@media(prefers-color-scheme:dark){body{color:#e4e7ee;background:#14171d}a{color:#8ab4f8}}";

/// The form of an answer of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    Page,
    Json,
    Grpc,
}

impl Wanted {
    /// By a request with `headers`.
    pub(crate) fn by(headers: &HeaderMap) -> Self {
        if facts::is_grpc(headers) {
            Self::Grpc
        } else if facts::wants_page(headers) {
            Self::Page
        } else {
            Self::Json
        }
    }
}

/// Something that is said instead of what was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) title: &'static str,
    pub(crate) text: String,
    /// Where a person may go on: an address and what it is.
    pub(crate) link: Option<(&'static str, &'static str)>,
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

    /// As an answer to a request with `headers`.
    pub(crate) fn answer(&self, headers: &HeaderMap) -> Answer {
        self.said(Wanted::by(headers))
    }

    /// As an answer of this form.
    pub(crate) fn said(&self, wanted: Wanted) -> Answer {
        match wanted {
            Wanted::Page => self.page(),
            Wanted::Json => self.json(),
            Wanted::Grpc => self.grpc(),
        }
    }

    /// The status of the call beside that of HTTP (gRPC over HTTP/2, "Trailers-Only").
    fn grpc(&self) -> Answer {
        let code = match self.status.as_u16() {
            400 => "3",
            403 => "7",
            404 | 421 => "5",
            _ => "14",
        };
        let mut answer = own(self.status, None);
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from_static(code));
        if let Ok(text) = HeaderValue::from_str(&self.text) {
            headers.insert("grpc-message", text);
        }
        answer
    }

    fn page(&self) -> Answer {
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    title { (self.title) }
                    style { (maud::PreEscaped(STYLE)) }
                }
                body {
                    h1 { (self.title) }
                    p { (self.text) }
                    @if let Some((address, what)) = self.link {
                        p { a href=(address) { (what) } }
                    }
                }
            }
        };
        self.with(page.into_string().into(), "text/html; charset=utf-8")
    }

    fn json(&self) -> Answer {
        let document = serde_json::json!({ "error": { "code": self.code, "message": self.text } });
        self.with(document.to_string().into(), "application/json")
    }

    fn with(&self, content: Bytes, kind: &'static str) -> Answer {
        let mut answer = own(self.status, Some(content));
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
        }
        answer
    }
}

/// An answer of ours, stored nowhere.
pub(crate) fn own(status: StatusCode, content: Option<Bytes>) -> Answer {
    let mut answer = Response::new(Down::Own(content));
    *answer.status_mut() = status;
    let pairs: [(HeaderName, &'static str); 4] = [
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CONTENT_SECURITY_POLICY, POLICY),
    ];
    for (name, value) in pairs {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

/// 302 to `address`; `None` if that is none.
pub(crate) fn redirect(address: &str) -> Option<Answer> {
    let mut answer = own(StatusCode::FOUND, None);
    answer.headers_mut().insert(LOCATION, HeaderValue::from_str(address).ok()?);
    Some(answer)
}

pub(crate) fn bad_request(code: &'static str, text: impl Into<String>) -> Message {
    Message::new(StatusCode::BAD_REQUEST, code, "This request cannot be understood", text)
}

pub(crate) fn no_app(host: &str) -> Message {
    let text = format!("There is no app at {host}. See that the name is spelled as in the app's address.");
    Message::new(StatusCode::NOT_FOUND, "app_not_found", "No such app", text)
}

pub(crate) fn misdirected(host: &str) -> Message {
    let text = format!("This server has no app for the host {host}.");
    Message::new(StatusCode::MISDIRECTED_REQUEST, "unknown_host", "Unknown host", text)
}

pub(crate) fn unavailable() -> Message {
    Message::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "control_unavailable",
        "Not available right now",
        "Who may see this app cannot be checked right now. Try again in a few seconds.",
    )
}

/// What a refusal says; those that are no message (302 and 204) are made elsewhere.
pub(crate) fn refused(refusal: Refusal) -> Message {
    let (code, title, text) = match refusal {
        Refusal::SignIn | Refusal::MissingCredential => (
            "credential_required",
            "This app is not public",
            "Sign in with a browser, or send an API key of a user who may see this app in the header X-Rigbox-Key.",
        ),
        Refusal::InvalidCredential => (
            "bad_credential",
            "Your sign-in does not count",
            "The credential that was sent is unknown, has expired or was revoked, or does not count for apps. \
             Sign in again, or send a valid API key in the header X-Rigbox-Key.",
        ),
        Refusal::NotAllowed => (
            "not_allowed",
            "You may not see this app",
            "You are signed in, but this app is not shared with you. Ask its owner to share it with your address.",
        ),
        Refusal::CrossSite => (
            "foreign_site",
            "Another site asked for this",
            "A page of another site made your browser send this request, so your sign-in does not count for it. \
             Programs send an API key in the header X-Rigbox-Key.",
        ),
        Refusal::PreflightAllowed | Refusal::PreflightDenied => (
            "origin_not_allowed",
            "This origin may not ask",
            "The origin is not among the app's cors_origins. Its owner can add it.",
        ),
    };
    let mut message = Message::new(StatusCode::FORBIDDEN, code, title, text);
    if matches!(refusal, Refusal::InvalidCredential | Refusal::MissingCredential) {
        message.link = Some(("/.rigbox/sign-in", "Sign in"));
    }
    message
}

pub(crate) fn app_stopped(route: &Route) -> Message {
    let text =
        format!("The app {} is stopped. Its owner can start it: rig app start {}", route.name, route.name);
    Message::new(StatusCode::SERVICE_UNAVAILABLE, "app_stopped", "This app is stopped", text)
}

pub(crate) fn workspace_down(route: &Route) -> Message {
    let text = format!(
        "The workspace behind the app {} does not run. Its owner can start it: rig workspace start",
        route.name
    );
    Message::new(StatusCode::SERVICE_UNAVAILABLE, "workspace_down", "The workspace does not run", text)
}

pub(crate) fn not_connected(error: &ConnectError, route: &Route) -> Message {
    let port = route.upstream().map_or(0, |upstream| upstream.port);
    let name = &route.name;
    match error {
        ConnectError::Dial(DialError::NoVm) => workspace_down(route),
        ConnectError::Dial(DialError::NotListening) => Message::new(
            StatusCode::BAD_GATEWAY,
            "app_not_listening",
            "The app does not listen",
            format!(
                "Nothing listens on port {port} of the workspace of {name}. Start the app there, on 0.0.0.0:{port}."
            ),
        ),
        ConnectError::Dial(DialError::TimedOut) => Message::new(
            StatusCode::GATEWAY_TIMEOUT,
            "app_timeout",
            "The app does not answer",
            format!(
                "The workspace of {name} did not take a connection to port {port} in time. Try again, or restart it."
            ),
        ),
        ConnectError::Dial(DialError::NotListed | DialError::NotPermitted | DialError::Node(_)) => {
            Message::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "app_not_ready",
                "The app cannot be reached yet",
                format!("The way to the app {name} is not open yet. Try again in a few seconds."),
            )
        }
        ConnectError::Http(_) => app_failed(route),
    }
}

pub(crate) fn app_failed(route: &Route) -> Message {
    let text =
        format!("The app {} closed the connection, or its answer is not HTTP. See its log.", route.name);
    Message::new(StatusCode::BAD_GATEWAY, "app_failed", "The app did not answer properly", text)
}

/// For an exchange that was ended before its answer began.
pub(crate) fn ended(why: Ended, route: &Route) -> Message {
    match why {
        Ended::Forbidden => refused(Refusal::NotAllowed),
        Ended::Gone => workspace_down(route),
        Ended::Unknown => unavailable(),
        Ended::Silent => Message::new(
            StatusCode::GATEWAY_TIMEOUT,
            "app_timeout",
            "The app does not answer",
            format!("The app {} took too long to answer. See its log.", route.name),
        ),
    }
}
