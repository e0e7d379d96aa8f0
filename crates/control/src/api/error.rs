//! Errors as clients see them. Each service's errors are mapped here and nowhere else; what is not the caller's
//! business goes to the log, and the caller gets a text that says so.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, StatusCode};
use rigbox_core::authz::Denied;
use rigbox_core::resources::ResourceError;
use serde::Serialize;
use serde_json::{Value, json};
use tracing::error;
use utoipa::ToSchema;

use crate::auth::AuthError;
use crate::guest_client::GuestError;
use crate::node_client::NodeError;
use crate::service::apps::AppProblem;
use crate::service::devices::DeviceProblem;
use crate::service::guests::GuestProblem;
use crate::service::quick_deploy::DeployProblem;
use crate::service::sign_in::SignInProblem;
use crate::service::workspaces::Problem;

/// What every failed request is answered with.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ApiErrorBody {
    error: ApiErrorDetail,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ApiErrorDetail {
    /// Stable, for programs.
    code: String,
    /// For people: what was wrong and what would be right.
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    details: Option<Value>,
}

#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    code: String,
    message: String,
    details: Option<Value>,
    retry_after_s: Option<u32>,
}

/// How soon a node or an agent may be back.
const SOON_S: u32 = 2;

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), message: message.into(), details: None, retry_after_s: None }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    pub(super) fn unavailable(code: &str, message: impl Into<String>) -> Self {
        Self { retry_after_s: Some(SOON_S), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message) }
    }

    pub(super) fn internal(problem: &dyn std::fmt::Display) -> Self {
        error!(%problem, "a request failed");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "something went wrong here; the log has the reason",
        )
    }

    pub(super) fn with_details(self, details: Value) -> Self {
        Self { details: Some(details), ..self }
    }

    /// Which status it is answered with.
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    /// When to come again, if that is known.
    pub(super) fn retry_after(&self) -> Option<(HeaderName, HeaderValue)> {
        self.retry_after_s.map(|seconds| (RETRY_AFTER, HeaderValue::from(seconds)))
    }

    /// Code and message, for a stream that has begun.
    pub(super) fn into_code_and_message(self) -> (String, String) {
        (self.code, self.message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let retry_after = self.retry_after();
        let body = ApiErrorBody {
            error: ApiErrorDetail { code: self.code, message: self.message, details: self.details },
        };
        let mut response = (self.status, Json(body)).into_response();
        response.headers_mut().extend(retry_after);
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

pub(super) fn no_route(path: &str) -> ApiError {
    let path: String = path.chars().take(200).collect();
    ApiError::new(
        StatusCode::NOT_FOUND,
        "not_found",
        format!("route {path} not found: /api-docs/openapi.json lists the routes"),
    )
}

pub(super) async fn no_method() -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "this route does not know the method: /api-docs/openapi.json lists the routes",
    )
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Store(error) => error.into(),
            AuthError::CrossSite => Self::new(StatusCode::FORBIDDEN, "cross_site", error.to_string()),
            other => Self::new(StatusCode::UNAUTHORIZED, "unauthorized", other.to_string()),
        }
    }
}

impl From<rigbox_store::Error> for ApiError {
    fn from(problem: rigbox_store::Error) -> Self {
        error!(%problem, "the database failed a request");
        Self::unavailable("database_unavailable", "the database cannot answer now: try again")
    }
}

impl From<NodeError> for ApiError {
    fn from(problem: NodeError) -> Self {
        error!(%problem, "the node failed a request");
        Self::unavailable(
            "node_unavailable",
            "the node does not answer now: try again, or look at `rig doctor`",
        )
    }
}

impl From<Denied> for ApiError {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::NotFound => Self::new(StatusCode::NOT_FOUND, "not_found", "not found"),
            Denied::AdministratorOnly(_) | Denied::OutOfScope(_) => {
                Self::new(StatusCode::FORBIDDEN, "forbidden", denied.to_string())
            }
        }
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        let message = problem.to_string();
        match problem {
            Problem::NotFound(_) | Problem::NoKey(_) | Problem::NoVariable(_) => {
                Self::new(StatusCode::NOT_FOUND, "not_found", message)
            }
            Problem::ShownOnce(_) => Self::new(StatusCode::CONFLICT, "secret_shown_once", message),
            Problem::Denied(denied) => denied.into(),
            Problem::InvalidName(_) => Self::bad_request(message).with_details(json!({"field": "name"})),
            Problem::ResourceError(ResourceError::Zero { field }) => {
                Self::bad_request(message).with_details(json!({"field": field}))
            }
            Problem::ResourceError(ResourceError::AboveLimit { field, limit_name, requested, limit }) => {
                Self::new(StatusCode::PAYMENT_REQUIRED, "limit_exceeded", message).with_details(
                    json!({"field": field, "limit": limit_name, "asked": requested, "max": limit}),
                )
            }
            Problem::InvalidValue(_) => Self::bad_request(message),
            Problem::Illegal(illegal) => {
                let allowed: Vec<_> = illegal.allowed.iter().map(|request| request.as_str()).collect();
                Self::new(StatusCode::CONFLICT, "invalid_state", message)
                    .with_details(json!({"status": illegal.status.as_str(), "allowed": allowed}))
            }
            Problem::NameTaken(_) => Self::new(StatusCode::CONFLICT, "name_taken", message),
            Problem::InvalidVariable(_) => {
                Self::bad_request(message).with_details(json!({"field": "env_vars"}))
            }
            Problem::Quota { limit_name, limit } | Problem::EnvironmentTooLarge { limit_name, limit } => {
                Self::new(StatusCode::PAYMENT_REQUIRED, "limit_exceeded", message)
                    .with_details(json!({"limit": limit_name, "max": limit}))
            }
            Problem::KeyReused => Self::new(StatusCode::CONFLICT, "idempotency_key_reused", message),
            Problem::Node(error) => error.into(),
            Problem::Store(error) => error.into(),
            Problem::Internal(_) => Self::internal(&message),
        }
    }
}

impl From<AppProblem> for ApiError {
    fn from(problem: AppProblem) -> Self {
        let message = problem.to_string();
        let conflict = |code| Self::new(StatusCode::CONFLICT, code, message.clone());
        match problem {
            AppProblem::NoApp(_) => Self::new(StatusCode::NOT_FOUND, "not_found", message),
            AppProblem::Workspace(problem) => problem.into(),
            AppProblem::InvalidName(_) => Self::bad_request(message).with_details(json!({"field": "name"})),
            AppProblem::InvalidDomain(_) => {
                Self::bad_request(message).with_details(json!({"field": "custom_domain"}))
            }
            AppProblem::InvalidValue { field, .. } => {
                Self::bad_request(message).with_details(json!({"field": field}))
            }
            AppProblem::NameTaken(_) => conflict("name_taken"),
            AppProblem::DomainTaken(_) => conflict("domain_taken"),
            AppProblem::Quota { limit_name, limit } => {
                Self::new(StatusCode::PAYMENT_REQUIRED, "limit_exceeded", message)
                    .with_details(json!({"limit": limit_name, "max": limit}))
            }
            AppProblem::Widens => Self::new(StatusCode::FORBIDDEN, "forbidden", message),
            AppProblem::NoService(_) | AppProblem::Crossed => conflict("conflict"),
            AppProblem::NotRunning(status) => {
                conflict("invalid_state").with_details(json!({"status": status.as_str()}))
            }
            AppProblem::Unverifiable(_) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "unverifiable_domain", message)
            }
            AppProblem::Guest(error) => error.into(),
        }
    }
}

impl From<DeployProblem> for ApiError {
    fn from(problem: DeployProblem) -> Self {
        match problem {
            DeployProblem::Workspace(problem) => problem.into(),
            DeployProblem::App(problem) => problem.into(),
        }
    }
}

impl From<SignInProblem> for ApiError {
    fn from(problem: SignInProblem) -> Self {
        let message = problem.to_string();
        match problem {
            SignInProblem::InvalidEmail(_) => {
                Self::bad_request(message).with_details(json!({"field": "email"}))
            }
            SignInProblem::TooMany(seconds) => Self {
                retry_after_s: Some(seconds),
                ..Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", message)
            },
            SignInProblem::Busy => Self::unavailable("busy", message),
            SignInProblem::InvalidLink => Self::new(StatusCode::NOT_FOUND, "not_found", message),
            SignInProblem::Store(error) => error.into(),
        }
    }
}

impl From<DeviceProblem> for ApiError {
    fn from(problem: DeviceProblem) -> Self {
        let message = problem.to_string();
        match problem {
            DeviceProblem::InvalidName => {
                Self::bad_request(message).with_details(json!({"field": "machine"}))
            }
            DeviceProblem::TooMany => Self::unavailable("busy", message),
            DeviceProblem::Unknown => Self::new(StatusCode::NOT_FOUND, "not_found", message),
            DeviceProblem::Denied => Self::new(StatusCode::FORBIDDEN, "denied", message),
            DeviceProblem::Store(error) => Problem::from(error).into(),
        }
    }
}

impl From<GuestProblem> for ApiError {
    fn from(problem: GuestProblem) -> Self {
        let message = problem.to_string();
        match problem {
            GuestProblem::NotFound(_) => Self::new(StatusCode::NOT_FOUND, "not_found", message),
            GuestProblem::NotRunning { status, allowed } => {
                Self::new(StatusCode::CONFLICT, "invalid_state", message)
                    .with_details(json!({"status": status.as_str(), "allowed": allowed}))
            }
            GuestProblem::AgentLost => Self::unavailable("agent_lost", message),
            GuestProblem::Guest(error) => error.into(),
            GuestProblem::Content(_) => Self::bad_request(message),
            GuestProblem::Store(error) => error.into(),
        }
    }
}

impl From<GuestError> for ApiError {
    fn from(error: GuestError) -> Self {
        let GuestError { code, message } = error;
        match code.as_str() {
            "not_found" => Self::new(StatusCode::NOT_FOUND, &code, format!("not found: {message}")),
            "permission_denied" => Self::new(StatusCode::FORBIDDEN, &code, message),
            "bad_request" => Self::bad_request(message),
            "not_running" => Self::new(StatusCode::CONFLICT, "invalid_state", message),
            "no_space" | "disk_full" => Self::new(StatusCode::CONFLICT, &code, message),
            "agent_lost" | "unreachable" => Self::unavailable(
                "agent_lost",
                format!(
                    "the workspace's agent does not answer ({message}): try again, or stop the workspace and start it again"
                ),
            ),
            "busy" => Self::unavailable("busy", message),
            _ => Self::internal(&format!("guest: {code}: {message}")),
        }
    }
}
