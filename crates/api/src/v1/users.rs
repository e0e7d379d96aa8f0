//! `/users/me`: account of the caller.

use axum::Json;
use axum::extract::State;
use rigbox_core::authz::{ReadAccount, ReadLimits, Target};
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::context::ApiContext;
use crate::error::{ApiError, ApiErrorBody};
use crate::extract::Caller;
use crate::schema::{role_and_workspaces, to_date};
use rigbox_service::users::{CallerKey, UserLimits};

/// Account of the caller.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct User {
    id: String,
    email: String,
    plan: &'static str,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    /// API key of the request; absent for other credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    api_key: Option<UserApiKey>,
}

/// API key that a request was made with.
#[derive(Debug, Serialize, ToSchema)]
struct UserApiKey {
    id: String,
    name: String,
    /// Role in `workspaces`, `read` or `operate`; absent for the whole account.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    role: Option<&'static str>,
    /// Ids of the workspaces that the key is limited to; absent for the whole account.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    workspaces: Option<Vec<String>>,
}

impl From<CallerKey> for UserApiKey {
    fn from(key: CallerKey) -> Self {
        let (role, workspaces) = role_and_workspaces(&key.scope);
        Self { id: key.id.to_string(), name: key.name, role, workspaces }
    }
}

/// Get the account of the caller
#[utoipa::path(get, path = "/users/me", operation_id = "get_user", tag = "users", responses((status = 200, body = User)))]
pub(crate) async fn me(
    State(context): State<ApiContext>,
    caller: Caller<ReadAccount>,
) -> Result<Json<User>, ApiError> {
    let permit = caller.authorize(Target::Account)?;
    let user = context.users.me(&permit).await?;
    let api_key = context.users.key(&permit).await?.map(Into::into);
    Ok(Json(User {
        id: user.id.to_string(),
        email: user.email,
        plan: user.plan.as_str(),
        created_at: to_date(user.created_at),
        api_key,
    }))
}

/// Limits and usage of the caller.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GetUserLimitsResponse {
    plan: &'static str,
    /// True if the limits differ from the plan's.
    custom: bool,
    limits: EffectiveLimits,
    usage: LimitsUsage,
}

/// Effective limits.
#[derive(Debug, Serialize, ToSchema)]
struct EffectiveLimits {
    max_vms: u32,
    max_ram_per_vm_mb: u32,
    max_ram_total_mb: u32,
    max_disk_total_mb: u32,
    max_vcpu_per_vm: u32,
    max_running_vcpus: u32,
}

/// Usage that counts against the limits.
#[derive(Debug, Serialize, ToSchema)]
struct LimitsUsage {
    workspace_count: u64,
    running_vcpus: u64,
    total_disk_mb: u64,
    total_ram_mb: u64,
}

/// Get the limits and usage of the caller
#[utoipa::path(get, path = "/users/me/limits", operation_id = "get_user_limits", tag = "users", responses((status = 200, body = GetUserLimitsResponse), (status = 403, body = ApiErrorBody)))]
pub(crate) async fn limits(
    State(context): State<ApiContext>,
    caller: Caller<ReadLimits>,
) -> Result<Json<GetUserLimitsResponse>, ApiError> {
    let UserLimits { plan, custom, limits, usage } =
        context.users.limits(&caller.authorize(Target::Account)?).await?;
    Ok(Json(GetUserLimitsResponse {
        plan: plan.as_str(),
        custom,
        limits: EffectiveLimits {
            max_vms: limits.max_vms,
            max_ram_per_vm_mb: limits.max_ram_per_vm_mb,
            max_ram_total_mb: limits.max_ram_total_mb,
            max_disk_total_mb: limits.max_disk_total_mb,
            max_vcpu_per_vm: limits.max_vcpu_per_vm,
            max_running_vcpus: limits.max_running_vcpus,
        },
        usage: LimitsUsage {
            workspace_count: usage.workspaces,
            running_vcpus: usage.running_vcpus,
            total_disk_mb: usage.disk_mb,
            total_ram_mb: usage.ram_mb,
        },
    }))
}
