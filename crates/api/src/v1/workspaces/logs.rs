//! `/workspaces/{id}/logs`: changes of a workspace's status, and the network access it was refused.

use std::convert::Infallible;

use axum::Json;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use rigbox_core::authz::ReadLogs;
use rigbox_service::records::LogEntry;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

use crate::context::ApiContext;
use crate::error::{ApiError, ApiErrorBody};
use crate::extract::{Caller, PathParams, QueryParams};
use crate::openapi::formats;
use crate::schema::{invalid_cursor, to_date};
use crate::v1::apps::services::{LogLine, MAX_LINES, log_lines};

/// Part of a workspace's log.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct WorkspaceLogQuery {
    /// Maximum number of lines: 100 if omitted, at most 1,000.
    #[param(minimum = 1, maximum = 1_000)]
    lines: Option<u32>,
    /// `cursor` of the previous response, to get the lines after it.
    #[param(pattern = "^[0-9]{1,18}$")]
    cursor: Option<String>,
}

impl WorkspaceLogQuery {
    /// Parses the number of lines, and the position of the last line that the client has.
    fn parse(&self) -> Result<(u32, Option<i64>), ApiError> {
        let cursor = self.cursor.as_deref().map(str::parse::<i64>).transpose();
        let after = cursor.ok().filter(|after| after.is_none_or(|after| after >= 0));
        Ok((log_lines(self.lines)?, after.ok_or_else(invalid_cursor)?))
    }
}

/// Lines of a workspace's log.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GetWorkspaceLogsResponse {
    lines: Vec<LogLine>,
    /// True if there may already be more after `cursor`.
    has_more: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    cursor: Option<String>,
}

fn render_line(entry: LogEntry) -> LogLine {
    let timestamp: OffsetDateTime = to_date(entry.at);
    LogLine::of(u32::try_from(entry.seq).unwrap_or(u32::MAX), entry.message, Some(timestamp))
}

/// Get the last lines of a workspace's log, or those after a cursor
///
/// The log has the changes of the workspace's status, and the network access it was refused.
#[utoipa::path(
    get, path = "/workspaces/{id}/logs", operation_id = "get_workspace_logs", tag = "workspaces", params(("id" = String, Path), WorkspaceLogQuery),
    responses(
        (status = 200, body = GetWorkspaceLogsResponse),
        (status = 400, body = ApiErrorBody),
        (status = 404, body = ApiErrorBody),
    ),
)]
pub(crate) async fn logs(
    State(context): State<ApiContext>,
    caller: Caller<ReadLogs>,
    PathParams(id): PathParams<String>,
    QueryParams(query): QueryParams<WorkspaceLogQuery>,
) -> Result<Json<GetWorkspaceLogsResponse>, ApiError> {
    let permit = caller.workspace(&context, &id).await?;
    let (max_lines, after) = query.parse()?;
    let entries = context.workspace_logs.lines(&permit, after, max_lines)?;
    let cursor = entries.last().map(|last| last.seq).or(after).map(|seq| seq.to_string());
    let has_more = after.is_some() && entries.len() == max_lines as usize;
    Ok(Json(GetWorkspaceLogsResponse {
        lines: entries.into_iter().map(render_line).collect(),
        has_more,
        cursor,
    }))
}

/// Follow a workspace's log: server-sent events, one per line, whose id is the cursor
#[utoipa::path(
    get, path = "/workspaces/{id}/logs/stream", operation_id = "stream_workspace_logs", tag = "workspaces", params(("id" = String, Path), WorkspaceLogQuery),
    responses(
        (status = 200, content_type = "text/event-stream", body = formats::LogEvent, description = "Events, one per line of the log"),
        (status = 400, body = ApiErrorBody),
        (status = 404, body = ApiErrorBody),
    ),
)]
pub(crate) async fn log_stream(
    State(context): State<ApiContext>,
    caller: Caller<ReadLogs>,
    PathParams(id): PathParams<String>,
    QueryParams(query): QueryParams<WorkspaceLogQuery>,
) -> Result<Response, ApiError> {
    let permit = caller.workspace(&context, &id).await?;
    let (max_lines, after) = query.parse()?;
    // Before the first read, so that nothing is missed in between.
    let written = context.workspace_logs.subscribe();
    let first = context.workspace_logs.lines(&permit, after, max_lines)?;
    let after = first.last().map(|last| last.seq).or(after).unwrap_or(0);
    let state = (context.workspace_logs.clone(), permit, written, after);
    let later = stream::unfold(state, |(logs, permit, mut written, after)| async move {
        loop {
            if !logs.wait_for_lines(&permit, &mut written).await {
                return None;
            }
            // If the database does not answer now, the lines follow with the next one.
            let entries = logs.lines(&permit, Some(after), MAX_LINES).unwrap_or_default();
            if let Some(last) = entries.last().map(|last| last.seq) {
                return Some((stream::iter(entries), (logs, permit, written, last)));
            }
        }
    });
    let events = stream::iter(first).chain(later.flatten()).map(|entry| {
        let id = entry.seq.to_string();
        Ok::<_, Infallible>(
            Event::default().id(id).data(serde_json::to_string(&render_line(entry)).unwrap_or_default()),
        )
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}
