//! Errors as clients see them. Each service's errors are mapped here and nowhere else. Details that are not
//! the caller's business go to the log.

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

use rigbox_service::apps::AppError;
use rigbox_service::error::ServiceError;
use rigbox_service::guests::GuestAccessError;
use rigbox_service::guests::client::GuestError;
use rigbox_service::identity::authenticate::AuthError;
use rigbox_service::identity::devices::{DeviceError, LOGIN_TTL};
use rigbox_service::identity::sign_in::SignInError;
use rigbox_service::nodes::api::NodeError;
use rigbox_service::quick_deploy::DeployError;

/// Body of every failed response.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ApiErrorBody {
    error: ApiErrorDetail,
}

/// Error of a request.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ApiErrorDetail {
    /// Stable code for programs.
    code: String,
    /// Message for people: the problem and the remedy.
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    details: Option<Value>,
}

#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: String,
    message: String,
    details: Option<Value>,
    retry_after_s: Option<u32>,
}

/// Time after which a node or an agent may be back.
const RETRY_AFTER_S: u32 = 2;

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), message: message.into(), details: None, retry_after_s: None }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    pub(crate) fn unavailable(code: &str, message: impl Into<String>) -> Self {
        Self {
            retry_after_s: Some(RETRY_AFTER_S),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
        }
    }

    pub(crate) fn internal(problem: &dyn std::fmt::Display) -> Self {
        error!(%problem, "request failed");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Something went wrong on the server. Its log has the details.",
        )
    }

    pub(crate) fn with_details(self, details: Value) -> Self {
        Self { details: Some(details), ..self }
    }

    /// Returns the status of the response.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns the `Retry-After` header, if there is one.
    pub(crate) fn retry_after(&self) -> Option<(HeaderName, HeaderValue)> {
        self.retry_after_s.map(|seconds| (RETRY_AFTER, HeaderValue::from(seconds)))
    }

    /// Returns code and message, for a stream that has already started.
    pub(crate) fn into_code_and_message(self) -> (String, String) {
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

pub(crate) fn route_not_found(path: &str) -> ApiError {
    let path: String = path.chars().take(200).collect();
    ApiError::new(
        StatusCode::NOT_FOUND,
        "not_found",
        format!("Route {path} not found. See /api-docs/openapi.json for the routes."),
    )
}

pub(crate) async fn method_not_allowed() -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "This route does not support the method. See /api-docs/openapi.json for the routes.",
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

impl From<rigbox_service::records::StoreError> for ApiError {
    fn from(problem: rigbox_service::records::StoreError) -> Self {
        error!(%problem, "database failed");
        Self::unavailable("database_unavailable", "The database does not answer. Try again.")
    }
}

impl From<NodeError> for ApiError {
    fn from(problem: NodeError) -> Self {
        error!(%problem, "node failed");
        Self::unavailable("node_unavailable", "The node does not answer. Try again, or run `rig doctor`.")
    }
}

impl From<Denied> for ApiError {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::NotFound => Self::new(StatusCode::NOT_FOUND, "not_found", "Resource not found."),
            Denied::AdministratorOnly(_) | Denied::OutOfScope { .. } => {
                Self::new(StatusCode::FORBIDDEN, "forbidden", denied.to_string())
            }
        }
    }
}

impl From<ServiceError> for ApiError {
    fn from(problem: ServiceError) -> Self {
        let message = problem.to_string();
        match problem {
            ServiceError::NotFound(_)
            | ServiceError::NotAnId(_)
            | ServiceError::KeyNotFound(_)
            | ServiceError::SshKeyNotFound(_)
            | ServiceError::ProxiedSecretNotFound(_)
            | ServiceError::VariableNotFound(_) => Self::new(StatusCode::NOT_FOUND, "not_found", message),
            ServiceError::SecretAlreadyShown(_) => {
                Self::new(StatusCode::CONFLICT, "secret_shown_once", message)
            }
            ServiceError::SshKeyExists { id, .. } => {
                Self::new(StatusCode::CONFLICT, "key_exists", message).with_details(json!({"id": id}))
            }
            ServiceError::InvalidSshKey(reason) => {
                let refusal = if reason.is_weakness() {
                    Self::new(StatusCode::UNPROCESSABLE_ENTITY, "weak_key", message)
                } else {
                    Self::bad_request(message)
                };
                refusal.with_details(json!({"field": "public_key"}))
            }
            ServiceError::Denied(denied) => denied.into(),
            ServiceError::InvalidName(_) => Self::bad_request(message).with_details(json!({"field": "name"})),
            ServiceError::InvalidResources(ResourceError::Zero { field }) => {
                Self::bad_request(message).with_details(json!({"field": field}))
            }
            ServiceError::InvalidResources(ResourceError::AboveLimit {
                field,
                limit_name,
                requested,
                limit,
            }) => Self::new(StatusCode::PAYMENT_REQUIRED, "limit_exceeded", message)
                .with_details(json!({"field": field, "limit": limit_name, "asked": requested, "max": limit})),
            ServiceError::InvalidValue(_) => Self::bad_request(message),
            ServiceError::IllegalTransition(illegal) => {
                let allowed: Vec<_> = illegal.allowed.iter().map(|request| request.as_str()).collect();
                Self::new(StatusCode::CONFLICT, "invalid_state", message)
                    .with_details(json!({"status": illegal.status.as_str(), "allowed": allowed}))
            }
            ServiceError::NameTaken(_) => Self::new(StatusCode::CONFLICT, "name_taken", message),
            ServiceError::InvalidVariable(_) => {
                Self::bad_request(message).with_details(json!({"field": "env_vars"}))
            }
            ServiceError::InvalidProxiedSecret(invalid) => {
                Self::bad_request(message).with_details(json!({"field": invalid.field()}))
            }
            ServiceError::InvalidAi { field, .. } => {
                Self::bad_request(message).with_details(json!({"field": field}))
            }
            ServiceError::Quota { limit_name, limit, .. }
            | ServiceError::EnvironmentTooLarge { limit_name, limit } => {
                Self::new(StatusCode::PAYMENT_REQUIRED, "limit_exceeded", message)
                    .with_details(json!({"limit": limit_name, "max": limit}))
            }
            ServiceError::NodeFull { needed_mb, free_mb } => Self::unavailable("node_full", message)
                .with_details(json!({"needed_mb": needed_mb, "free_mb": free_mb})),
            ServiceError::IdempotencyKeyReused => {
                Self::new(StatusCode::CONFLICT, "idempotency_key_reused", message)
            }
            ServiceError::Node(error) => error.into(),
            ServiceError::Store(error) => error.into(),
            ServiceError::Internal(_) => Self::internal(&message),
        }
    }
}

impl From<AppError> for ApiError {
    fn from(problem: AppError) -> Self {
        let message = problem.to_string();
        let conflict = |code| Self::new(StatusCode::CONFLICT, code, message.clone());
        match problem {
            AppError::NotFound(_) | AppError::NotAnId(_) => {
                Self::new(StatusCode::NOT_FOUND, "not_found", message)
            }
            AppError::Workspace(problem) => problem.into(),
            AppError::InvalidName(_) => Self::bad_request(message).with_details(json!({"field": "name"})),
            AppError::InvalidDomain(_) => {
                Self::bad_request(message).with_details(json!({"field": "custom_domain"}))
            }
            AppError::InvalidValue { field, .. } => {
                Self::bad_request(message).with_details(json!({"field": field}))
            }
            AppError::NameTaken(_) => conflict("name_taken"),
            AppError::DomainTaken(_) => conflict("domain_taken"),
            AppError::Quota { limit_name, limit, .. } => {
                Self::new(StatusCode::PAYMENT_REQUIRED, "limit_exceeded", message)
                    .with_details(json!({"limit": limit_name, "max": limit}))
            }
            AppError::WidensAccess => Self::new(StatusCode::FORBIDDEN, "forbidden", message),
            AppError::NoService(_) | AppError::ConcurrentChange => conflict("conflict"),
            AppError::NotRunning(status) => {
                conflict("invalid_state").with_details(json!({"status": status.as_str()}))
            }
            AppError::DomainNotVerified(_) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "unverifiable_domain", message)
            }
            AppError::Guest(error) => error.into(),
        }
    }
}

impl From<DeployError> for ApiError {
    fn from(problem: DeployError) -> Self {
        match problem {
            DeployError::Workspace(problem) => problem.into(),
            DeployError::App(problem) => problem.into(),
        }
    }
}

impl From<SignInError> for ApiError {
    fn from(problem: SignInError) -> Self {
        let message = problem.to_string();
        match problem {
            SignInError::InvalidEmail(_) => {
                Self::bad_request(message).with_details(json!({"field": "email"}))
            }
            SignInError::TooMany(seconds) => Self {
                retry_after_s: Some(seconds),
                ..Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", message)
            },
            SignInError::Busy => Self::unavailable("busy", message),
            SignInError::InvalidLink => Self::new(StatusCode::NOT_FOUND, "not_found", message),
            SignInError::Store(error) => error.into(),
        }
    }
}

impl From<DeviceError> for ApiError {
    fn from(problem: DeviceError) -> Self {
        let message = problem.to_string();
        match problem {
            DeviceError::InvalidName => Self::bad_request(message).with_details(json!({"field": "machine"})),
            DeviceError::ClientHasMaximum => Self {
                retry_after_s: u32::try_from(LOGIN_TTL.as_secs()).ok(),
                ..Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", message)
            },
            DeviceError::TooMany => Self::unavailable("busy", message),
            DeviceError::Unknown => Self::new(StatusCode::NOT_FOUND, "not_found", message),
            DeviceError::Denied => Self::new(StatusCode::FORBIDDEN, "denied", message),
            DeviceError::Store(error) => ServiceError::from(error).into(),
        }
    }
}

impl From<GuestAccessError> for ApiError {
    fn from(problem: GuestAccessError) -> Self {
        let message = problem.to_string();
        match problem {
            GuestAccessError::NotFound(_) => Self::new(StatusCode::NOT_FOUND, "not_found", message),
            GuestAccessError::NotRunning { status, allowed } => {
                Self::new(StatusCode::CONFLICT, "invalid_state", message)
                    .with_details(json!({"status": status.as_str(), "allowed": allowed}))
            }
            GuestAccessError::AgentLost => Self::unavailable("agent_lost", message),
            GuestAccessError::Guest(error) => error.into(),
            GuestAccessError::Content(_) => Self::bad_request(message),
            GuestAccessError::Store(error) => error.into(),
        }
    }
}

impl From<GuestError> for ApiError {
    fn from(error: GuestError) -> Self {
        let GuestError { code, message } = error;
        match code.as_str() {
            "not_found" if message.contains("not found") => Self::new(StatusCode::NOT_FOUND, &code, message),
            // The message of a tool such as `cat` does not say `not found`.
            "not_found" => {
                Self::new(StatusCode::NOT_FOUND, &code, format!("File or directory not found: {message}"))
            }
            "permission_denied" => Self::new(StatusCode::FORBIDDEN, &code, message),
            "bad_request" => Self::bad_request(message),
            "not_running" => Self::new(StatusCode::CONFLICT, "invalid_state", message),
            "ended" => Self::new(StatusCode::CONFLICT, &code, message),
            "no_space" | "disk_full" => Self::new(StatusCode::CONFLICT, &code, message),
            "agent_lost" | "unreachable" => Self::unavailable(
                "agent_lost",
                format!(
                    "The workspace's agent does not answer ({message}). Try again, or restart the workspace."
                ),
            ),
            "busy" => Self::unavailable("busy", message),
            _ => Self::internal(&format!("guest: {code}: {message}")),
        }
    }
}
