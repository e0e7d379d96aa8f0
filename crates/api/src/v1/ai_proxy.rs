//! `/workspaces/{id}/ai-proxy`: the switch of a workspace's proxy, which code in the workspace has too.

use axum::Json;
use axum::extract::State;
use rigbox_core::authz::{ReadWorkspace, SwitchAiProxy};
use rigbox_service::records::WorkspaceAiMode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::context::ApiContext;
use crate::error::{ApiError, ApiErrorBody};
use crate::extract::{Caller, JsonBody, PathParams};

/// Proxy of a workspace, for AI calls and for proxied secrets.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AiProxyResponse {
    /// False if the workspace has switched it off.
    enabled: bool,
    /// Keys that AI calls are made with: `managed` or `byok`. The switch does not change them.
    mode: &'static str,
}

/// Switch of the proxy.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SwitchAiProxyRequest {
    /// False closes the proxy for the workspace, whatever its settings allow.
    enabled: bool,
}

impl From<WorkspaceAiMode> for AiProxyResponse {
    fn from(mode: WorkspaceAiMode) -> Self {
        Self { enabled: !mode.is_switched_off, mode: mode.current().as_str() }
    }
}

/// Get if a workspace's proxy is on
#[utoipa::path(
    get, path = "/workspaces/{id}/ai-proxy", operation_id = "get_workspace_ai_proxy", tag = "ai", params(("id" = String, Path)),
    responses((status = 200, body = AiProxyResponse), (status = 404, body = ApiErrorBody)),
)]
pub(crate) async fn get(
    State(context): State<ApiContext>,
    caller: Caller<ReadWorkspace>,
    PathParams(id): PathParams<String>,
) -> Result<Json<AiProxyResponse>, ApiError> {
    let permit = caller.workspace(&context, &id).await?;
    Ok(Json(context.ai_settings.mode(&permit).await?.into()))
}

/// Switch a workspace's proxy, effective with the next call
#[utoipa::path(
    put, path = "/workspaces/{id}/ai-proxy", operation_id = "switch_workspace_ai_proxy", tag = "ai", params(("id" = String, Path)),
    request_body = SwitchAiProxyRequest,
    responses(
        (status = 200, body = AiProxyResponse),
        (status = 400, body = ApiErrorBody),
        (status = 403, body = ApiErrorBody),
        (status = 404, body = ApiErrorBody),
        (status = 413, body = ApiErrorBody),
    ),
)]
pub(crate) async fn switch(
    State(context): State<ApiContext>,
    caller: Caller<SwitchAiProxy>,
    PathParams(id): PathParams<String>,
    JsonBody(body): JsonBody<SwitchAiProxyRequest>,
) -> Result<Json<AiProxyResponse>, ApiError> {
    let permit = caller.workspace(&context, &id).await?;
    Ok(Json(context.ai_settings.switch_proxy(&permit, !body.enabled).await?.into()))
}
