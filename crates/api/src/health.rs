//! `/healthz` and `/readyz`, for monitoring.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::context::ApiContext;
use crate::error::{ApiError, ApiErrorBody};

/// Healthy status.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    status: &'static str,
    version: &'static str,
}

const OK: Health = Health { status: "ok", version: env!("CARGO_PKG_VERSION") };

/// Check whether the process answers
#[utoipa::path(get, path = "/healthz", operation_id = "get_health", tag = "health", responses((status = 200, body = Health)))]
pub(crate) async fn healthz() -> Json<Health> {
    Json(OK)
}

/// Check whether the process can work: database and node answer
#[utoipa::path(
    get, path = "/readyz", operation_id = "get_readiness", tag = "health",
    responses((status = 200, body = Health), (status = 503, body = ApiErrorBody)),
)]
pub(crate) async fn readyz(State(context): State<ApiContext>) -> Result<Json<Health>, ApiError> {
    match context.health.problem().await {
        None => Ok(Json(OK)),
        Some(problem) => Err(ApiError::unavailable("not_ready", problem)),
    }
}
