//! `/workspaces/{id}/logs`: what has become of a workspace, and what its network refused it.

use std::convert::Infallible;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use rigbox_core::authz::ReadLogs;
use rigbox_service::records::LogEntry;
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::context::ApiContext;
use crate::error::{ApiError, ApiErrorBody};
use crate::extract::{Caller, QueryParams};
use crate::schema::{bad_cursor, date};
use crate::v1::apps::services::{LogLine, LogQuery, MAX_LINES};

/// The last line that was seen: its place in the log.
fn after(query: &LogQuery) -> Result<Option<i64>, ApiError> {
    let cursor = query.text().map(str::parse::<i64>).transpose();
    cursor.ok().filter(|after| after.is_none_or(|after| after >= 0)).ok_or_else(bad_cursor)
}

/// Lines of a workspace's log.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GetWorkspaceLogsResponse {
    lines: Vec<LogLine>,
    /// There may be more after `cursor` already.
    has_more: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    cursor: Option<String>,
}

fn line(entry: LogEntry) -> LogLine {
    let timestamp: OffsetDateTime = date(entry.at);
    LogLine::of(u32::try_from(entry.seq).unwrap_or(u32::MAX), entry.message, Some(timestamp))
}

/// What has become of a workspace, and what its network refused it: the last lines, or those after a cursor
#[utoipa::path(
    get, path = "/workspaces/{id}/logs", tag = "workspaces", params(("id" = String, Path), LogQuery),
    responses(
        (status = 200, body = GetWorkspaceLogsResponse),
        (status = 400, body = ApiErrorBody),
        (status = 404, body = ApiErrorBody),
    ),
)]
pub(crate) async fn logs(
    State(app): State<ApiContext>,
    caller: Caller<ReadLogs>,
    Path(id): Path<String>,
    QueryParams(query): QueryParams<LogQuery>,
) -> Result<Json<GetWorkspaceLogsResponse>, ApiError> {
    let permit = caller.workspace(&app, &id).await?;
    let (wanted, after) = (query.lines()?, after(&query)?);
    let entries = app.workspace_logs.lines(&permit, after, wanted)?;
    let cursor = entries.last().map(|last| last.seq).or(after).map(|seq| seq.to_string());
    let has_more = after.is_some() && entries.len() == wanted as usize;
    Ok(Json(GetWorkspaceLogsResponse { lines: entries.into_iter().map(line).collect(), has_more, cursor }))
}

/// A workspace's log as it is written: server-sent events, each a line; its id is the cursor
#[utoipa::path(
    get, path = "/workspaces/{id}/logs/stream", tag = "workspaces", params(("id" = String, Path), LogQuery),
    responses(
        (status = 200, content_type = "text/event-stream", body = String),
        (status = 400, body = ApiErrorBody),
        (status = 404, body = ApiErrorBody),
    ),
)]
pub(crate) async fn log_stream(
    State(app): State<ApiContext>,
    caller: Caller<ReadLogs>,
    Path(id): Path<String>,
    QueryParams(query): QueryParams<LogQuery>,
) -> Result<Response, ApiError> {
    let permit = caller.workspace(&app, &id).await?;
    let (wanted, after) = (query.lines()?, after(&query)?);
    // Before the first look, so that nothing is missed in between.
    let written = app.workspace_logs.subscribe();
    let first = app.workspace_logs.lines(&permit, after, wanted)?;
    let after = first.last().map(|last| last.seq).or(after).unwrap_or(0);
    let state = (app.workspace_logs.clone(), permit, written, after);
    let news = stream::unfold(state, |(logs, permit, mut written, after)| async move {
        loop {
            if !logs.news(&permit, &mut written).await {
                return None;
            }
            // A database that does not answer now is requested at the next line.
            let entries = logs.lines(&permit, Some(after), MAX_LINES).unwrap_or_default();
            if let Some(last) = entries.last().map(|last| last.seq) {
                return Some((stream::iter(entries), (logs, permit, written, last)));
            }
        }
    });
    let events = stream::iter(first).chain(news.flatten()).map(|entry| {
        let id = entry.seq.to_string();
        Ok::<_, Infallible>(
            Event::default().id(id).data(serde_json::to_string(&line(entry)).unwrap_or_default()),
        )
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}
