//! Errors of requests, with the remedy.

use std::error::Error;
use std::time::Duration;

use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use crate::config::{Config, Source};

/// Failure of a request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// The API key is missing or not valid.
    #[error("{message}")]
    LogIn { message: String },
    /// The server refused the request.
    #[error("{message}{}", retry_hint(*retry_after))]
    Refused {
        status: StatusCode,
        code: String,
        message: String,
        details: Value,
        retry_after: Option<Duration>,
    },
    /// An argument is missing.
    #[error("{message}")]
    Usage { message: String },
    /// The server is unreachable.
    #[error("cannot reach {address}: {reason}; {remedy}")]
    Unreachable { address: String, reason: String, remedy: String },
    /// The response does not come from a Rigbox server, or comes from a newer one.
    #[error("{message}")]
    Unexpected { message: String },
}

#[derive(Deserialize)]
struct Body {
    error: Detail,
}

#[derive(Deserialize)]
struct Detail {
    code: String,
    message: String,
    #[serde(default)]
    details: Value,
}

impl ApiError {
    /// Returns the stable code for programs.
    pub(crate) fn code(&self) -> &str {
        match self {
            Self::LogIn { .. } => "unauthorized",
            Self::Refused { code, .. } => code,
            Self::Unreachable { .. } => "unreachable",
            Self::Unexpected { .. } => "unexpected_answer",
            Self::Usage { .. } => "usage",
        }
    }

    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: StatusCode::NOT_FOUND, .. })
    }

    pub(super) fn not_found(message: String) -> Self {
        let (status, code) = (StatusCode::NOT_FOUND, "not_found".to_owned());
        Self::Refused { status, code, message, details: Value::Null, retry_after: None }
    }

    pub(super) fn refused(status: StatusCode, retry_after: Option<Duration>, body: &[u8]) -> Self {
        match serde_json::from_slice::<Body>(body) {
            Ok(Body { error: Detail { message, .. } }) if status == StatusCode::UNAUTHORIZED => {
                let remedy = "run `rig login`, or set RIG_API_KEY to a valid key";
                Self::LogIn { message: format!("{}; {remedy}", message.trim_end_matches('.')) }
            }
            Ok(Body { error: Detail { code, message, details } }) => {
                Self::Refused { status, code, message, details, retry_after }
            }
            Err(_) => {
                let message =
                    format!("unexpected response {status}, not from a Rigbox server; check RIG_API_URL");
                let code = "unexpected_answer".to_owned();
                Self::Refused { status, code, message, details: Value::Null, retry_after }
            }
        }
    }

    pub(super) fn unreachable(config: &Config, error: &reqwest::Error) -> Self {
        let reason = reason(error);
        let remedy = if reason.contains("certificate") {
            "set SSL_CERT_FILE to trust other certificates than the system's"
        } else if config.is_inside() {
            "the workspace's bridge may be starting; try again"
        } else if config.is_local() {
            "start Rigbox with `cargo xtask up` in a checkout, or `rigboxd up`"
        } else if config.url_source == Source::Env {
            "check RIG_API_URL and the network"
        } else {
            "check api_url in ~/.rigbox/config.json and the network"
        };
        Self::Unreachable { address: config.address().to_owned(), reason, remedy: remedy.to_owned() }
    }
}

fn retry_hint(retry_after: Option<Duration>) -> String {
    match retry_after {
        Some(pause) => format!(" (try again in {} s)", pause.as_secs()),
        None => String::new(),
    }
}

/// Returns the last cause of an error, which tells most.
pub(super) fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "timed out".to_owned();
    }
    let mut cause: &dyn Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_shows_the_servers_message() {
        let body = br#"{"error":{"code":"name_taken","message":"taken","details":{"a":1}}}"#;
        let error = ApiError::refused(StatusCode::CONFLICT, None, body);
        assert_eq!((error.code(), error.to_string().as_str()), ("name_taken", "taken"));
        let error = ApiError::refused(StatusCode::TOO_MANY_REQUESTS, Some(Duration::from_secs(90)), body);
        assert_eq!(error.to_string(), "taken (try again in 90 s)");
    }

    #[test]
    fn only_a_rigbox_server_can_ask_for_login() {
        let body = br#"{"error":{"code":"unauthorized","message":"no such key"}}"#;
        let error = ApiError::refused(StatusCode::UNAUTHORIZED, None, body);
        assert!(matches!(error, ApiError::LogIn { .. }));
        let error = ApiError::refused(StatusCode::UNAUTHORIZED, None, b"<html>");
        assert_eq!(error.code(), "unexpected_answer");
    }
}
