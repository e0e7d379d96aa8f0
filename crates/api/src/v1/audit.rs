//! `/audit-log`: what was done with the account's credentials.

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
use crate::schema::{bad_cursor, date, page_size};

/// Which part of the log.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AuditQuery {
    /// At most so many: 100 when left out, 1,000 at most.
    #[param(minimum = 1, maximum = 1_000)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Something that was done.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditLogEntry {
    /// Its place in the installation's log.
    id: i64,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    /// E.g. `workspace.start`.
    action: String,
    /// What it was done to.
    target: String,
    /// The key that was shown; absent for what was done on the machine itself.
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
        Self { id: seq, at: date(at), action, target, key_id: key, address }
    }
}

/// A page of the log.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditLogResponse {
    entries: Vec<AuditLogEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    next_cursor: Option<String>,
}

/// What was done with the account's credentials, newest first
#[utoipa::path(
    get, path = "/audit-log", tag = "audit", params(AuditQuery),
    responses(
        (status = 200, body = AuditLogResponse),
        (status = 400, body = ApiErrorBody),
        (status = 403, body = ApiErrorBody),
    ),
)]
pub(crate) async fn list(
    State(app): State<ApiContext>,
    caller: Caller<ReadAudit>,
    QueryParams(query): QueryParams<AuditQuery>,
) -> Result<Json<AuditLogResponse>, ApiError> {
    let limit = page_size(query.limit)?;
    let before = query.cursor.map(|cursor| cursor.parse().map_err(|_| bad_cursor())).transpose()?;
    let permit = caller.authorize(Target::Account)?;
    // One more than requested tells whether there is a next page.
    let mut entries = app.audit.list(&permit, before, limit + 1).await?;
    let more = entries.len() > limit as usize;
    entries.truncate(limit as usize);
    let next_cursor = entries.last().filter(|_| more).map(|last| last.seq.to_string());
    Ok(Json(AuditLogResponse { entries: entries.into_iter().map(Into::into).collect(), next_cursor }))
}
