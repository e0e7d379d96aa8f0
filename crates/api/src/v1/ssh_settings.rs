//! `/workspaces/{id}/ssh`: SSH settings of a workspace.

use axum::Json;
use axum::extract::State;
use rigbox_core::authz::{OperateWorkspace, ReadWorkspace};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::context::ApiContext;
use crate::error::{ApiError, ApiErrorBody};
use crate::extract::{Caller, JsonBody, PathParams};

/// SSH settings of a workspace.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WorkspaceSshSettings {
    /// True if a stopped workspace is started when its owner connects by SSH.
    start_on_connect: bool,
}

/// Get a workspace's SSH settings
#[utoipa::path(
    get, path = "/workspaces/{id}/ssh", operation_id = "get_workspace_ssh", tag = "ssh-keys", params(("id" = String, Path)),
    responses((status = 200, body = WorkspaceSshSettings), (status = 404, body = ApiErrorBody)),
)]
pub(crate) async fn get(
    State(context): State<ApiContext>,
    caller: Caller<ReadWorkspace>,
    PathParams(id): PathParams<String>,
) -> Result<Json<WorkspaceSshSettings>, ApiError> {
    let permit = caller.workspace(&context, &id).await?;
    let start_on_connect = context.ssh_settings.start_on_connect(&permit).await?;
    Ok(Json(WorkspaceSshSettings { start_on_connect }))
}

/// Change a workspace's SSH settings, effective with the next connection
#[utoipa::path(
    patch, path = "/workspaces/{id}/ssh", operation_id = "update_workspace_ssh", tag = "ssh-keys", params(("id" = String, Path)),
    request_body = WorkspaceSshSettings,
    responses(
        (status = 200, body = WorkspaceSshSettings),
        (status = 400, body = ApiErrorBody),
        (status = 404, body = ApiErrorBody),
        (status = 413, body = ApiErrorBody),
    ),
)]
pub(crate) async fn update(
    State(context): State<ApiContext>,
    caller: Caller<OperateWorkspace>,
    PathParams(id): PathParams<String>,
    JsonBody(body): JsonBody<WorkspaceSshSettings>,
) -> Result<Json<WorkspaceSshSettings>, ApiError> {
    let permit = caller.workspace(&context, &id).await?;
    context.ssh_settings.set_start_on_connect(&permit, body.start_on_connect).await?;
    Ok(Json(body))
}
