//! AI calls: credits and usage of the caller, and with whose keys calls are made.

use axum::Json;
use axum::extract::State;
use rigbox_core::ai::mode::{AiMode, InvalidMode};
use rigbox_core::ai::money::Money;
use rigbox_core::authz::{ManageAi, OperateWorkspace, ReadAi, ReadWorkspace, Target};
use rigbox_service::ai::usage::{AiUsage, WINDOW_DAYS};
use rigbox_service::records::{AiCredits as Credits, AiDay, AiWorkspaceSum, WorkspaceAiMode};
use serde::{Deserialize, Serialize};
use time::Date;
use utoipa::ToSchema;

use crate::context::ApiContext;
use crate::error::{ApiError, ApiErrorBody};
use crate::extract::{Caller, JsonBody, PathParams};

/// Millionths of a dollar in a dollar.
const MICRO: f64 = 1_000_000.0;
/// Julian day of 1970-01-01.
const EPOCH_JULIAN_DAY: i64 = 2_440_588;

/// Credits of the caller, in US dollars.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AiCredits {
    /// Credits that calls can still use. What open calls have reserved is not in it.
    remaining: f64,
    /// All credits that were granted.
    total: f64,
    /// The same in millionths.
    remaining_micro: i64,
    /// The same in millionths.
    total_micro: i64,
    /// Mode of workspaces without one of their own: `managed` or `byok`.
    mode: &'static str,
}

/// Usage of the caller in the last days.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GetAiUsageResponse {
    /// Number of days, today included. Days are in UTC.
    window_days: i32,
    /// Days with a call, in order.
    daily: Vec<AiUsageDaily>,
    /// Workspaces with a call, the dearest first. Deleted ones are among them.
    by_workspace: Vec<AiUsageWorkspaceTotal>,
}

/// Usage of a day.
#[derive(Debug, Serialize, ToSchema)]
struct AiUsageDaily {
    /// Such as `2026-11-27`.
    #[schema(format = Date)]
    day: String,
    /// Input, what caches held included.
    input_tokens: i64,
    /// Output, reasoning included.
    output_tokens: i64,
    /// US dollars.
    credits: f64,
    /// The same in millionths.
    credits_micro: i64,
    requests: i64,
}

/// Usage of a workspace.
#[derive(Debug, Serialize, ToSchema)]
struct AiUsageWorkspaceTotal {
    workspace_id: String,
    workspace_name: String,
    /// Input, what caches held included.
    input_tokens: i64,
    /// Output, reasoning included.
    output_tokens: i64,
    /// US dollars.
    credits: f64,
    /// The same in millionths.
    credits_micro: i64,
    requests: i64,
}

/// Mode of workspaces without one of their own.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateAiModeRequest {
    /// `managed`: the operator's keys, for credits. `byok`: the user's own key.
    #[schema(pattern = "^(managed|byok)$")]
    mode: String,
}

/// Mode of a workspace.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateWorkspaceAiModeRequest {
    /// `managed` or `byok`; null is the mode of the account.
    #[serde(default)]
    #[schema(pattern = "^(managed|byok)$")]
    mode: Option<String>,
}

/// Mode of a workspace.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WorkspaceAiModeResponse {
    /// `managed` or `byok`.
    mode: &'static str,
    /// Origin of the mode.
    source: WorkspaceAiModeSource,
}

/// Origin of a workspace's mode.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum WorkspaceAiModeSource {
    /// The workspace has one of its own.
    Workspace,
    /// It is that of the account.
    UserDefault,
}

impl From<Credits> for AiCredits {
    fn from(credits: Credits) -> Self {
        let (remaining, total) = (credits.account.left(), credits.account.granted);
        Self {
            remaining: dollars(remaining),
            total: dollars(total),
            remaining_micro: signed(remaining.micro()),
            total_micro: signed(total.micro()),
            mode: credits.mode.as_str(),
        }
    }
}

impl From<AiDay> for AiUsageDaily {
    fn from(AiDay { day, sums }: AiDay) -> Self {
        Self {
            day: date(day),
            input_tokens: signed(sums.input_tokens),
            output_tokens: signed(sums.output_tokens),
            credits: dollars(sums.cost),
            credits_micro: signed(sums.cost.micro()),
            requests: signed(sums.requests),
        }
    }
}

impl From<AiWorkspaceSum> for AiUsageWorkspaceTotal {
    fn from(AiWorkspaceSum { workspace_id, name, sums }: AiWorkspaceSum) -> Self {
        Self {
            workspace_id,
            workspace_name: name,
            input_tokens: signed(sums.input_tokens),
            output_tokens: signed(sums.output_tokens),
            credits: dollars(sums.cost),
            credits_micro: signed(sums.cost.micro()),
            requests: signed(sums.requests),
        }
    }
}

impl From<WorkspaceAiMode> for WorkspaceAiModeResponse {
    fn from(mode: WorkspaceAiMode) -> Self {
        let own = mode.own.map(|own| (own, WorkspaceAiModeSource::Workspace));
        let (mode, source) = own.unwrap_or((mode.default, WorkspaceAiModeSource::UserDefault));
        Self { mode: mode.as_str(), source }
    }
}

fn dollars(amount: Money) -> f64 {
    amount.micro() as f64 / MICRO
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Returns the date of a day since 1970-01-01.
fn date(day: i64) -> String {
    let julian = i32::try_from(day + EPOCH_JULIAN_DAY).unwrap_or(i32::MAX);
    Date::from_julian_day(julian).map_or_else(|_| String::new(), |date| date.to_string())
}

pub(super) fn parse(mode: &str) -> Result<AiMode, ApiError> {
    mode.parse().map_err(|error: InvalidMode| ApiError::bad_request(format!("mode: {error}")))
}

/// Get the caller's credits for AI calls
#[utoipa::path(get, path = "/users/me/credits", operation_id = "get_ai_credits", tag = "ai", responses((status = 200, body = AiCredits)))]
pub(crate) async fn credits(
    State(context): State<ApiContext>,
    caller: Caller<ReadAi>,
) -> Result<Json<AiCredits>, ApiError> {
    let permit = caller.authorize(Target::Account)?;
    Ok(Json(context.ai_settings.credits(&permit).await?.into()))
}

/// Get what the caller's AI calls have used in the last 30 days
#[utoipa::path(get, path = "/users/me/ai-usage", operation_id = "get_ai_usage", tag = "ai", responses((status = 200, body = GetAiUsageResponse)))]
pub(crate) async fn usage(
    State(context): State<ApiContext>,
    caller: Caller<ReadAi>,
) -> Result<Json<GetAiUsageResponse>, ApiError> {
    let permit = caller.authorize(Target::Account)?;
    let AiUsage { days, workspaces } = context.ai_usage.of_caller(&permit).await?;
    Ok(Json(GetAiUsageResponse {
        window_days: WINDOW_DAYS,
        daily: days.into_iter().map(Into::into).collect(),
        by_workspace: workspaces.into_iter().map(Into::into).collect(),
    }))
}

/// Set with whose keys AI calls are made, for workspaces without a setting of their own
#[utoipa::path(
    put, path = "/users/me/ai-mode", operation_id = "update_ai_mode", tag = "ai", request_body = UpdateAiModeRequest,
    responses(
        (status = 200, body = AiCredits),
        (status = 400, body = ApiErrorBody),
        (status = 413, body = ApiErrorBody),
    ),
)]
pub(crate) async fn set_mode(
    State(context): State<ApiContext>,
    caller: Caller<ManageAi>,
    JsonBody(body): JsonBody<UpdateAiModeRequest>,
) -> Result<Json<AiCredits>, ApiError> {
    let permit = caller.authorize(Target::Account)?;
    Ok(Json(context.ai_settings.set_default_mode(&permit, parse(&body.mode)?).await?.into()))
}

/// Get with whose keys a workspace's AI calls are made
#[utoipa::path(
    get, path = "/workspaces/{id}/mode", operation_id = "get_workspace_ai_mode", tag = "ai", params(("id" = String, Path)),
    responses((status = 200, body = WorkspaceAiModeResponse), (status = 404, body = ApiErrorBody)),
)]
pub(crate) async fn workspace_mode(
    State(context): State<ApiContext>,
    caller: Caller<ReadWorkspace>,
    PathParams(id): PathParams<String>,
) -> Result<Json<WorkspaceAiModeResponse>, ApiError> {
    let permit = caller.workspace(&context, &id).await?;
    Ok(Json(context.ai_settings.mode(&permit).await?.into()))
}

/// Set with whose keys a workspace's AI calls are made, effective with the next call
#[utoipa::path(
    put, path = "/workspaces/{id}/mode", operation_id = "update_workspace_ai_mode", tag = "ai", params(("id" = String, Path)),
    request_body = UpdateWorkspaceAiModeRequest,
    responses(
        (status = 200, body = WorkspaceAiModeResponse),
        (status = 400, body = ApiErrorBody),
        (status = 404, body = ApiErrorBody),
        (status = 413, body = ApiErrorBody),
    ),
)]
pub(crate) async fn set_workspace_mode(
    State(context): State<ApiContext>,
    caller: Caller<OperateWorkspace>,
    PathParams(id): PathParams<String>,
    JsonBody(body): JsonBody<UpdateWorkspaceAiModeRequest>,
) -> Result<Json<WorkspaceAiModeResponse>, ApiError> {
    let permit = caller.workspace(&context, &id).await?;
    let mode = body.mode.as_deref().map(parse).transpose()?;
    Ok(Json(context.ai_settings.set_mode(&permit, mode).await?.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_their_dates() {
        for (day, expected) in [(0, "1970-01-01"), (59, "1970-03-01"), (20_784, "2026-11-27")] {
            assert_eq!(date(day), expected);
        }
    }
}
