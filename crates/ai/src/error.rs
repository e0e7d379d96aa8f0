//! Errors in the form that each provider's own clients read.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use rigbox_proto::ai::Provider;
use serde_json::json;

/// Tells the SDKs of Anthropic and OpenAI if a request may be made again.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Kind of an error that we, and not a provider, answer with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    InvalidRequest,
    NotFound,
    NotAllowed,
    TooLarge,
    UnsupportedMedia,
    /// Money, which no further try brings.
    InsufficientCredits,
    /// Too many calls at once.
    RateLimit,
    /// WebSockets are not spoken.
    UpgradeRequired,
    /// The provider could not be reached, or broke off.
    Upstream,
    /// No answer of the provider in time.
    UpstreamTimeout,
    /// This installation cannot take calls now.
    Unavailable,
}

/// Error for a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CallError {
    pub(crate) kind: ErrorKind,
    /// For a person.
    pub(crate) message: String,
}

impl CallError {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// Form of the errors that a call's client reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) provider: Provider,
    /// OpenAI's Responses API, whose events differ, and whose main client (Codex) makes a call six times at 402, 403 and 404, and once at 400
    /// and at 429 with the code of a quota.
    pub(crate) is_responses: bool,
    pub(crate) call_id: String,
}

impl Form {
    /// Returns the response of an error.
    pub(crate) fn response(&self, error: &CallError) -> Response<Bytes> {
        let status = match error.kind {
            ErrorKind::InsufficientCredits if self.is_responses => StatusCode::TOO_MANY_REQUESTS,
            ErrorKind::NotAllowed | ErrorKind::NotFound if self.is_responses => StatusCode::BAD_REQUEST,
            kind => kind.status(),
        };
        let mut response = Response::new(Bytes::from(self.body(error, status)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if error.kind == ErrorKind::InsufficientCredits {
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        if error.kind == ErrorKind::RateLimit {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }

    /// Returns the event of an error that ends a stream which has begun.
    pub(crate) fn event(&self, error: &CallError) -> Bytes {
        let text = match self.provider {
            Provider::Anthropic => {
                format!("event: error\ndata: {}\n\n", self.body(error, error.kind.status()))
            }
            _ if self.is_responses => {
                let (kind, code) = error.kind.openai();
                let body = json!({
                    "type": "error",
                    "code": code.unwrap_or(kind),
                    "message": error.message,
                    "param": null,
                    "sequence_number": 0,
                });
                format!("event: error\ndata: {body}\n\n")
            }
            _ => format!("data: {}\n\n", self.body(error, error.kind.status())),
        };
        Bytes::from(text)
    }

    fn body(&self, error: &CallError, status: StatusCode) -> String {
        let CallError { kind, message } = error;
        match self.provider {
            Provider::Google => json!({"error": {
                "code": status.as_u16(),
                "message": message,
                "status": kind.google(),
            }}),
            Provider::Anthropic => json!({
                "type": "error",
                "error": {"type": kind.anthropic(), "message": message},
                "request_id": self.call_id,
            }),
            _ => {
                let (kind, code) = kind.openai();
                json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
            }
        }
        .to_string()
    }
}

impl ErrorKind {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::InvalidRequest => StatusCode::BAD_REQUEST,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::NotAllowed => StatusCode::FORBIDDEN,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMedia => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::InsufficientCredits => StatusCode::PAYMENT_REQUIRED,
            Self::RateLimit => StatusCode::TOO_MANY_REQUESTS,
            Self::UpgradeRequired => StatusCode::UPGRADE_REQUIRED,
            Self::Upstream => StatusCode::BAD_GATEWAY,
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn anthropic(self) -> &'static str {
        match self {
            Self::InvalidRequest | Self::UnsupportedMedia | Self::UpgradeRequired => "invalid_request_error",
            Self::NotFound => "not_found_error",
            Self::NotAllowed => "permission_error",
            Self::TooLarge => "request_too_large",
            Self::InsufficientCredits => "billing_error",
            Self::RateLimit => "rate_limit_error",
            Self::Upstream => "api_error",
            Self::UpstreamTimeout => "timeout_error",
            Self::Unavailable => "overloaded_error",
        }
    }

    /// Type and code.
    fn openai(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::InvalidRequest | Self::TooLarge | Self::UnsupportedMedia | Self::UpgradeRequired => {
                ("invalid_request_error", None)
            }
            Self::NotFound => ("invalid_request_error", Some("not_found")),
            Self::NotAllowed => ("invalid_request_error", Some("not_allowed")),
            Self::InsufficientCredits => ("insufficient_quota", Some("insufficient_quota")),
            Self::RateLimit => ("rate_limit_error", Some("rate_limit_exceeded")),
            Self::Upstream | Self::UpstreamTimeout => ("server_error", Some("upstream_error")),
            Self::Unavailable => ("server_error", Some("unavailable")),
        }
    }

    fn google(self) -> &'static str {
        match self {
            Self::InvalidRequest | Self::TooLarge | Self::UnsupportedMedia | Self::UpgradeRequired => {
                "INVALID_ARGUMENT"
            }
            Self::NotFound => "NOT_FOUND",
            Self::NotAllowed => "PERMISSION_DENIED",
            Self::InsufficientCredits | Self::RateLimit => "RESOURCE_EXHAUSTED",
            Self::Upstream => "INTERNAL",
            Self::UpstreamTimeout => "DEADLINE_EXCEEDED",
            Self::Unavailable => "UNAVAILABLE",
        }
    }
}
