//! `/audit-log`: actions with the account's credentials.

use axum::Json;
use axum::extract::State;
use rigbox_core::authz::{ReadAudit, Target};
use rigbox_service::records::AuditEntry;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

use crate::context::ApiContext;
use crate::error::{ApiError, ApiErrorBody};
use crate::extract::{Caller, QueryParams};
use crate::schema::{invalid_cursor, page_size, to_date};

/// Page of the log.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AuditQuery {
    /// Maximum number of entries: 100 if omitted, at most 1,000.
    #[param(minimum = 1, maximum = 1_000)]
    limit: Option<u32>,
    /// `next_cursor` of the previous page.
    #[param(pattern = "^[0-9]{1,18}$")]
    cursor: Option<String>,
}

/// Entry of the audit log.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditLogEntry {
    /// Position in the installation's log.
    id: i64,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    /// For example `workspace.start`.
    action: String,
    /// Object of the action.
    target: String,
    /// Key used by the caller; absent for actions on the machine itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    key_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    address: Option<String>,
}

impl From<AuditEntry> for AuditLogEntry {
    fn from(entry: AuditEntry) -> Self {
        let AuditEntry { seq, at, user: _, key, address, action, target } = entry;
        Self { id: seq, at: to_date(at), action, target, key_id: key, address }
    }
}

/// Page of the log.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditLogResponse {
    entries: Vec<AuditLogEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    next_cursor: Option<String>,
}

/// List the actions with the account's credentials, newest first
#[utoipa::path(
    get, path = "/audit-log", operation_id = "list_audit_log", tag = "audit", params(AuditQuery),
    responses(
        (status = 200, body = AuditLogResponse),
        (status = 400, body = ApiErrorBody),
        (status = 403, body = ApiErrorBody),
    ),
)]
pub(crate) async fn list(
    State(context): State<ApiContext>,
    caller: Caller<ReadAudit>,
    QueryParams(query): QueryParams<AuditQuery>,
) -> Result<Json<AuditLogResponse>, ApiError> {
    let limit = page_size(query.limit)?;
    let before = query.cursor.map(|cursor| cursor.parse().map_err(|_| invalid_cursor())).transpose()?;
    let permit = caller.authorize(Target::Account)?;
    // One more than requested, which shows whether there is a next page.
    let mut entries = context.audit.list(&permit, before, limit + 1).await?;
    let more = entries.len() > limit as usize;
    entries.truncate(limit as usize);
    let next_cursor = entries.last().filter(|_| more).map(|last| last.seq.to_string());
    Ok(Json(AuditLogResponse { entries: entries.into_iter().map(Into::into).collect(), next_cursor }))
}
