//! Users' own AI providers and keys: settings of a workspace, and of the caller's workspaces without. A key is never returned.

use axum::Json;
use axum::extract::State;
use rigbox_core::ai::own_key::EffectiveAi;
use rigbox_core::authz::{ManageAi, ReadAi, ReadEnv, Target, WriteEnv};
use rigbox_service::ai::settings::SettingsChange;
use rigbox_service::environment::Effect;
use rigbox_service::records::WorkspaceAi;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::ai::parse;
use crate::context::ApiContext;
use crate::error::{ApiError, ApiErrorBody};
use crate::extract::{Caller, JsonBody, PathParams};
use crate::schema::{deserialize_present, to_date};

/// Settings of a workspace's AI calls.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WorkspaceAiConfigResponse {
    /// `managed` or `byok`.
    mode: &'static str,
    /// Provider of a key of your own.
    provider: &'static str,
    /// Model to use with it; empty: none is chosen.
    model: String,
    /// `managed_active`, `byok_active`, or `invalid_missing_key` if your own key is to be used and there is none for the provider.
    status: &'static str,
    /// Way of your own key: `env`, in the workspace's environment, or `proxy`, added to calls outside of it.
    key_delivery: &'static str,
    #[serde(with = "time::serde::rfc3339")]
    updated_at: OffsetDateTime,
    /// After a change: true if new commands, login shells and services already have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    live: Option<bool>,
    /// After a change: its effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

/// Change of a workspace's AI settings. An omitted field stays as it is; `null` clears it, so that the account's holds.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateWorkspaceAiConfigRequest {
    /// `managed`: the operator's keys, for credits. `byok`: your own key.
    #[serde(default, deserialize_with = "deserialize_present")]
    #[schema(value_type = Option<String>, pattern = "^(managed|byok)$")]
    mode: Option<Option<String>>,
    /// `google`, `openai` or `anthropic`.
    #[serde(default, deserialize_with = "deserialize_present")]
    #[schema(value_type = Option<String>, pattern = "^(google|openai|anthropic)$")]
    provider: Option<Option<String>>,
    /// Model for agents that read one from the environment.
    #[serde(default, deserialize_with = "deserialize_present")]
    #[schema(value_type = Option<String>, pattern = "^[!-~]{1,128}$")]
    model: Option<Option<String>>,
    /// Your key at the provider. It is stored encrypted, is never returned, and enters the workspace's memory only.
    #[serde(default, deserialize_with = "deserialize_present")]
    #[schema(value_type = Option<String>, pattern = "^[!-~]{1,512}$", write_only)]
    api_key: Option<Option<SecretString>>,
    /// `env`: your key is in the workspace's environment, where code can read it. `proxy`: it stays outside, and is added to calls.
    #[serde(default, deserialize_with = "deserialize_present")]
    #[schema(value_type = Option<String>, pattern = "^(env|proxy)$")]
    key_delivery: Option<Option<String>>,
}

/// Settings of AI calls in workspaces without their own.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GetAiDefaultsResponse {
    /// `managed` or `byok`.
    default_mode: &'static str,
    /// Provider of a key of your own.
    default_provider: &'static str,
    /// Model to use with it; empty: none is chosen.
    default_model: String,
    /// As in a workspace without settings.
    default_status: &'static str,
    /// Way of your own key.
    default_key_delivery: &'static str,
    /// After a change: its effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    message: Option<String>,
}

/// Change of the settings of AI calls in workspaces without their own. An omitted field stays as it is; `null` clears it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateAiDefaultsRequest {
    /// `managed` or `byok`.
    #[serde(default, deserialize_with = "deserialize_present")]
    #[schema(value_type = Option<String>, pattern = "^(managed|byok)$")]
    default_mode: Option<Option<String>>,
    /// `google`, `openai` or `anthropic`.
    #[serde(default, deserialize_with = "deserialize_present")]
    #[schema(value_type = Option<String>, pattern = "^(google|openai|anthropic)$")]
    default_provider: Option<Option<String>>,
    /// Model for agents that read one from the environment.
    #[serde(default, deserialize_with = "deserialize_present")]
    #[schema(value_type = Option<String>, pattern = "^[!-~]{1,128}$")]
    default_model: Option<Option<String>>,
    /// Your key at the provider, as in a workspace.
    #[serde(default, deserialize_with = "deserialize_present")]
    #[schema(value_type = Option<String>, pattern = "^[!-~]{1,512}$", write_only)]
    default_api_key: Option<Option<SecretString>>,
    /// Way of your own key, as in a workspace.
    #[serde(default, deserialize_with = "deserialize_present")]
    #[schema(value_type = Option<String>, pattern = "^(env|proxy)$")]
    default_key_delivery: Option<Option<String>>,
}

impl From<WorkspaceAi> for WorkspaceAiConfigResponse {
    fn from(WorkspaceAi { effective, updated_at }: WorkspaceAi) -> Self {
        Self {
            mode: effective.mode.as_str(),
            provider: effective.provider.as_str(),
            model: effective.model,
            status: effective.status.as_str(),
            key_delivery: effective.delivery.as_str(),
            updated_at: to_date(updated_at),
            live: None,
            message: None,
        }
    }
}

impl From<EffectiveAi> for GetAiDefaultsResponse {
    fn from(effective: EffectiveAi) -> Self {
        Self {
            default_mode: effective.mode.as_str(),
            default_provider: effective.provider.as_str(),
            default_model: effective.model,
            default_status: effective.status.as_str(),
            default_key_delivery: effective.delivery.as_str(),
            message: None,
        }
    }
}

/// Returns the change of a request's fields.
fn change(
    mode: Option<Option<String>>,
    provider: Option<Option<String>>,
    model: Option<Option<String>>,
    key: Option<Option<SecretString>>,
    delivery: Option<Option<String>>,
) -> Result<SettingsChange, ApiError> {
    let mode = mode.map(|mode| mode.as_deref().map(parse).transpose()).transpose()?;
    Ok(SettingsChange { mode, provider, model, key, delivery })
}

/// Get the AI settings of a workspace
#[utoipa::path(
    get, path = "/workspaces/{id}/ai-config", operation_id = "get_workspace_ai_config", tag = "ai", params(("id" = String, Path)),
    responses(
        (status = 200, body = WorkspaceAiConfigResponse),
        (status = 403, body = ApiErrorBody),
        (status = 404, body = ApiErrorBody),
    ),
)]
pub(crate) async fn of_workspace(
    State(context): State<ApiContext>,
    caller: Caller<ReadEnv>,
    PathParams(id): PathParams<String>,
) -> Result<Json<WorkspaceAiConfigResponse>, ApiError> {
    let permit = caller.workspace(&context, &id).await?;
    Ok(Json(context.ai_settings.of_workspace(&permit).await?.into()))
}

/// Change the AI settings of a workspace; what starts in it from then on has them
#[utoipa::path(
    put, path = "/workspaces/{id}/ai-config", operation_id = "update_workspace_ai_config", tag = "ai",
    params(("id" = String, Path)), request_body = UpdateWorkspaceAiConfigRequest,
    responses(
        (status = 200, body = WorkspaceAiConfigResponse),
        (status = 400, body = ApiErrorBody),
        (status = 403, body = ApiErrorBody),
        (status = 404, body = ApiErrorBody),
        (status = 413, body = ApiErrorBody),
    ),
)]
pub(crate) async fn set_workspace(
    State(context): State<ApiContext>,
    caller: Caller<WriteEnv>,
    PathParams(id): PathParams<String>,
    JsonBody(body): JsonBody<UpdateWorkspaceAiConfigRequest>,
) -> Result<Json<WorkspaceAiConfigResponse>, ApiError> {
    let permit = caller.workspace(&context, &id).await?;
    let change = change(body.mode, body.provider, body.model, body.api_key, body.key_delivery)?;
    let (config, effect) = context.ai_settings.set_workspace(&permit, change).await?;
    let message = match effect {
        Effect::Live => {
            "Changed. What runs in the workspace keeps what it had; everything new has the change."
        }
        Effect::OnStart => "Changed. The workspace has it when it starts.",
        Effect::Pending => "Changed. The workspace has it when its agent answers again.",
    };
    let response = WorkspaceAiConfigResponse::from(config);
    let (live, message) = (Some(effect == Effect::Live), Some(message.to_owned()));
    Ok(Json(WorkspaceAiConfigResponse { live, message, ..response }))
}

/// Get the AI settings of the caller's workspaces without their own
#[utoipa::path(get, path = "/users/me/ai-defaults", operation_id = "get_ai_defaults", tag = "ai", responses((status = 200, body = GetAiDefaultsResponse)))]
pub(crate) async fn defaults(
    State(context): State<ApiContext>,
    caller: Caller<ReadAi>,
) -> Result<Json<GetAiDefaultsResponse>, ApiError> {
    let permit = caller.authorize(Target::Account)?;
    Ok(Json(context.ai_settings.defaults(&permit).await?.into()))
}

/// Change the AI settings of the caller's workspaces without their own
#[utoipa::path(
    put, path = "/users/me/ai-defaults", operation_id = "update_ai_defaults", tag = "ai", request_body = UpdateAiDefaultsRequest,
    responses(
        (status = 200, body = GetAiDefaultsResponse),
        (status = 400, body = ApiErrorBody),
        (status = 413, body = ApiErrorBody),
    ),
)]
pub(crate) async fn set_defaults(
    State(context): State<ApiContext>,
    caller: Caller<ManageAi>,
    JsonBody(body): JsonBody<UpdateAiDefaultsRequest>,
) -> Result<Json<GetAiDefaultsResponse>, ApiError> {
    let permit = caller.authorize(Target::Account)?;
    let UpdateAiDefaultsRequest {
        default_mode: mode,
        default_provider: provider,
        default_model: model,
        default_api_key: key,
        default_key_delivery: delivery,
    } = body;
    let change = change(mode, provider, model, key, delivery)?;
    let changed = GetAiDefaultsResponse::from(context.ai_settings.set_defaults(&permit, change).await?);
    let message = "Changed. What runs in your workspaces keeps what it had; everything new has the change.";
    Ok(Json(GetAiDefaultsResponse { message: Some(message.to_owned()), ..changed }))
}
