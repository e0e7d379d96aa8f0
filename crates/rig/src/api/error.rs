//! What can go wrong between this program and the server, with the remedy.

use std::error::Error;
use std::time::Duration;

use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use crate::config::{Config, Source};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// There is no key, or it is not valid (any more).
    #[error("{message}")]
    LogIn { message: String },
    /// The server said no.
    #[error("{message}{}", later(*retry_after))]
    Refused {
        status: StatusCode,
        code: String,
        message: String,
        details: Value,
        retry_after: Option<Duration>,
    },
    /// The command line does not say enough.
    #[error("{message}")]
    Usage { message: String },
    /// Nobody answers there.
    #[error("{address} cannot be reached: {reason}; {remedy}")]
    Unreachable { address: String, reason: String, remedy: String },
    /// Somebody answers who is no Rigbox server, or a newer one.
    #[error("{message}")]
    Strange { message: String },
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
    /// Stable, for programs.
    pub(crate) fn code(&self) -> &str {
        match self {
            Self::LogIn { .. } => "unauthorized",
            Self::Refused { code, .. } => code,
            Self::Unreachable { .. } => "unreachable",
            Self::Strange { .. } => "unexpected_answer",
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
                let remedy = "set RIG_API_KEY, or api_key in ~/.rigbox/config.json, to a valid key";
                Self::LogIn { message: format!("{message}: {remedy}") }
            }
            Ok(Body { error: Detail { code, message, details } }) => {
                Self::Refused { status, code, message, details, retry_after }
            }
            Err(_) => {
                let message =
                    format!("the server answers {status}, and not as Rigbox does: check RIG_API_URL");
                let code = "unexpected_answer".to_owned();
                Self::Refused { status, code, message, details: Value::Null, retry_after }
            }
        }
    }

    pub(super) fn unreachable(config: &Config, error: &reqwest::Error) -> Self {
        let reason = reason(error);
        let remedy = if reason.contains("certificate") {
            "SSL_CERT_FILE may name a file of certificates to trust instead of the system's"
        } else if config.is_inside() {
            "this is the workspace's bridge to its server, which may just be starting: try again"
        } else if config.is_local() {
            "is Rigbox running on this machine? `cargo xtask up` starts it in a checkout, `rigboxd up` elsewhere"
        } else if config.url_source == Source::Env {
            "check RIG_API_URL, and the network"
        } else {
            "check api_url in ~/.rigbox/config.json, and the network"
        };
        Self::Unreachable { address: config.address().to_owned(), reason, remedy: remedy.to_owned() }
    }
}

fn later(retry_after: Option<Duration>) -> String {
    match retry_after {
        Some(pause) => format!(" (try again in {} s)", pause.as_secs()),
        None => String::new(),
    }
}

/// The most telling of an error's causes: the last one.
pub(super) fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
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
    fn a_refusal_says_what_the_server_said() {
        let body = br#"{"error":{"code":"name_taken","message":"taken","details":{"a":1}}}"#;
        let error = ApiError::refused(StatusCode::CONFLICT, None, body);
        assert_eq!((error.code(), error.to_string().as_str()), ("name_taken", "taken"));
        let error = ApiError::refused(StatusCode::TOO_MANY_REQUESTS, Some(Duration::from_secs(90)), body);
        assert_eq!(error.to_string(), "taken (try again in 90 s)");
    }

    #[test]
    fn only_a_rigbox_server_can_ask_for_a_log_in() {
        let body = br#"{"error":{"code":"unauthorized","message":"no such key"}}"#;
        let error = ApiError::refused(StatusCode::UNAUTHORIZED, None, body);
        assert!(matches!(error, ApiError::LogIn { .. }));
        let error = ApiError::refused(StatusCode::UNAUTHORIZED, None, b"<html>");
        assert_eq!(error.code(), "unexpected_answer");
    }
}
