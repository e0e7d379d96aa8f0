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

    /// Returns the response. `is_responses` is for OpenAI's Responses API, whose main client (Codex) repeats a 402 six times, but no 429
    /// of this code.
    pub(crate) fn response(&self, provider: Provider, is_responses: bool, call_id: &str) -> Response<Bytes> {
        let status = match self.kind {
            ErrorKind::InsufficientCredits if is_responses => StatusCode::TOO_MANY_REQUESTS,
            kind => kind.status(),
        };
        let mut response = Response::new(Bytes::from(self.body(provider, status, call_id)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.kind == ErrorKind::InsufficientCredits {
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        if self.kind == ErrorKind::RateLimit {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }

    /// Returns the JSON of the error.
    pub(crate) fn body(&self, provider: Provider, status: StatusCode, call_id: &str) -> String {
        match provider {
            Provider::Google => json!({"error": {
                "code": status.as_u16(),
                "message": self.message,
                "status": self.kind.google(),
            }}),
            Provider::Anthropic => json!({
                "type": "error",
                "error": {"type": self.kind.anthropic(), "message": self.message},
                "request_id": call_id,
            }),
            _ => json!({"error": {
                "message": self.message,
                "type": self.kind.openai().0,
                "param": null,
                "code": self.kind.openai().1,
            }}),
        }
        .to_string()
    }

    /// Returns the event that ends a stream which has begun.
    pub(crate) fn event(&self, provider: Provider, is_responses: bool, call_id: &str) -> Bytes {
        let text = match provider {
            Provider::Anthropic => {
                format!("event: error\ndata: {}\n\n", self.body(provider, self.kind.status(), call_id))
            }
            _ if is_responses => {
                let body = json!({
                    "type": "error",
                    "code": self.kind.openai().1.unwrap_or(self.kind.openai().0),
                    "message": self.message,
                    "param": null,
                    "sequence_number": 0,
                });
                format!("event: error\ndata: {body}\n\n")
            }
            _ => format!("data: {}\n\n", self.body(provider, self.kind.status(), call_id)),
        };
        Bytes::from(text)
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
