//! `/healthz` and `/readyz`: for those who watch the process.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::context::ApiContext;
use crate::error::{ApiError, ApiErrorBody};

/// All is well.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    status: &'static str,
    version: &'static str,
}

const WELL: Health = Health { status: "ok", version: env!("CARGO_PKG_VERSION") };

/// Whether the process answers
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = 200, body = Health)))]
pub(crate) async fn healthz() -> Json<Health> {
    Json(WELL)
}

/// Whether the process can do its work: database and node answer
#[utoipa::path(
    get, path = "/readyz", tag = "health",
    responses((status = 200, body = Health), (status = 503, body = ApiErrorBody)),
)]
pub(crate) async fn readyz(State(app): State<ApiContext>) -> Result<Json<Health>, ApiError> {
    match app.health.obstacle().await {
        None => Ok(Json(WELL)),
        Some(obstacle) => Err(ApiError::unavailable("not_ready", obstacle)),
    }
}
