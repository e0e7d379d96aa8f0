//! `/workspaces/{id}/env`: environment of a workspace. Values can be set, but are never returned.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use rigbox_core::authz::{ReadEnv, WriteEnv};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::workspaces::schema::masked_variables;
use crate::context::ApiContext;
use crate::error::{ApiError, ApiErrorBody};
use crate::extract::{Caller, JsonBody, PathParams};
use crate::openapi::formats;
use rigbox_service::environment::Effect;

/// Names of a workspace's environment variables.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GetWorkspaceEnvResponse {
    /// Each name with `***` in place of its value.
    env_vars: BTreeMap<String, String>,
}

/// Variables to add or replace; others stay as they are.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateWorkspaceEnvRequest {
    /// Names of letters, digits and `_`, up to 128; values up to 32,768, without NUL; 64 KiB and 512
    /// variables in total.
    #[schema(value_type = formats::EnvVars)]
    env_vars: BTreeMap<String, SecretString>,
}

/// Result of a change.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WorkspaceEnvResponse {
    message: String,
    /// True if new commands, login shells and services already have it.
    live: bool,
}

impl From<Effect> for WorkspaceEnvResponse {
    fn from(effect: Effect) -> Self {
        let message = match effect {
            Effect::Live => "Environment changed. New processes in the workspace will see it.",
            Effect::OnStart => "Environment changed. The workspace will see it when it starts.",
            Effect::Pending => "Environment changed. The workspace will see it when its agent answers again.",
        };
        Self { message: message.to_owned(), live: effect == Effect::Live }
    }
}

/// List the names of a workspace's environment variables
#[utoipa::path(
    get, path = "/workspaces/{id}/env", operation_id = "list_env_vars", tag = "environment", params(("id" = String, Path)),
    responses(
        (status = 200, body = GetWorkspaceEnvResponse),
        (status = 403, body = ApiErrorBody),
        (status = 404, body = ApiErrorBody),
    ),
)]
pub(crate) async fn list(
    State(context): State<ApiContext>,
    caller: Caller<ReadEnv>,
    PathParams(id): PathParams<String>,
) -> Result<Json<GetWorkspaceEnvResponse>, ApiError> {
    let permit = caller.workspace(&context, &id).await?;
    Ok(Json(GetWorkspaceEnvResponse {
        env_vars: masked_variables(&context.environments.names(&permit).await?),
    }))
}

/// Set environment variables; a running workspace gets them at once
#[utoipa::path(
    post, path = "/workspaces/{id}/env", operation_id = "set_env_vars", tag = "environment", params(("id" = String, Path)),
    request_body = UpdateWorkspaceEnvRequest,
    responses(
        (status = 200, body = WorkspaceEnvResponse),
        (status = 400, body = ApiErrorBody),
        (status = 402, body = ApiErrorBody, description = "The environment would be too large"),
        (status = 403, body = ApiErrorBody),
        (status = 404, body = ApiErrorBody),
        (status = 413, body = ApiErrorBody),
    ),
)]
pub(crate) async fn set(
    State(context): State<ApiContext>,
    caller: Caller<WriteEnv>,
    PathParams(id): PathParams<String>,
    JsonBody(body): JsonBody<UpdateWorkspaceEnvRequest>,
) -> Result<Json<WorkspaceEnvResponse>, ApiError> {
    let permit = caller.workspace(&context, &id).await?;
    Ok(Json(context.environments.set(&permit, body.env_vars).await?.into()))
}

/// Remove an environment variable
#[utoipa::path(
    delete, path = "/workspaces/{id}/env/{key}", operation_id = "delete_env_var", tag = "environment",
    params(("id" = String, Path), ("key" = String, Path, description = "Name of the variable")),
    responses(
        (status = 200, body = WorkspaceEnvResponse),
        (status = 403, body = ApiErrorBody),
        (status = 404, body = ApiErrorBody),
    ),
)]
pub(crate) async fn unset(
    State(context): State<ApiContext>,
    caller: Caller<WriteEnv>,
    PathParams((id, key)): PathParams<(String, String)>,
) -> Result<Json<WorkspaceEnvResponse>, ApiError> {
    let permit = caller.workspace(&context, &id).await?;
    Ok(Json(context.environments.unset(&permit, &key).await?.into()))
}
