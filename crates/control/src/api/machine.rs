//! `/capacity`: what the machine can hold.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::error::{ApiError, ApiErrorBody};

/// What the machine has, and what of its disk is spoken for.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Capacity {
    vcpus: u32,
    ram_mb: u64,
    disk_total_mb: u64,
    disk_reserved_mb: u64,
    disk_free_mb: u64,
}

/// What the machine can hold
#[utoipa::path(
    get, path = "/capacity", tag = "machine",
    responses((status = 200, body = Capacity), (status = 503, body = ApiErrorBody)),
)]
pub(super) async fn capacity(State(app): State<App>) -> Result<Json<Capacity>, ApiError> {
    let node = app.machine.capacity().await?;
    Ok(Json(Capacity {
        vcpus: node.vcpus,
        ram_mb: node.ram_mb,
        disk_total_mb: node.disk_total_mb,
        disk_reserved_mb: node.disk_reserved_mb,
        disk_free_mb: node.disk_total_mb.saturating_sub(node.disk_reserved_mb),
    }))
}
