//! `/capacity`: capacity of the machine.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::context::ApiContext;
use crate::error::{ApiError, ApiErrorBody};

/// Accelerator with which the hardware isolates VMs.
const KVM: &str = "kvm";

/// Capacity of the machine, the part of its disk that is reserved, and whether it isolates.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Capacity {
    vcpus: u32,
    ram_mb: u64,
    disk_total_mb: u64,
    disk_reserved_mb: u64,
    disk_free_mb: u64,
    /// True if VMs run in software emulation, where QEMU does not promise isolation.
    emulated: bool,
}

/// Get the machine's capacity
#[utoipa::path(
    get, path = "/capacity", operation_id = "get_capacity", tag = "machine",
    responses((status = 200, body = Capacity), (status = 503, body = ApiErrorBody)),
)]
pub(crate) async fn capacity(State(context): State<ApiContext>) -> Result<Json<Capacity>, ApiError> {
    let node = context.capacity.capacity().await?;
    Ok(Json(Capacity {
        vcpus: node.vcpus,
        ram_mb: node.ram_mb,
        disk_total_mb: node.disk_total_mb,
        disk_reserved_mb: node.disk_reserved_mb,
        disk_free_mb: node.disk_total_mb.saturating_sub(node.disk_reserved_mb),
        emulated: node.accelerator != KVM,
    }))
}
