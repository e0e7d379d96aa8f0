//! `/workspaces/{id}/files/...`: names and directories.

use std::convert::Infallible;

use axum::Json;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http::StatusCode;
use rigbox_core::authz::{ReadFiles, WriteFiles};
use rigbox_core::time::Timestamp;
use rigbox_proto::guest::change_file_request::Change;
use rigbox_proto::guest::{self, ChangeFileRequest, MakeDirectory, Remove, Rename};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

use super::{check_path, parse_mode};
use crate::context::ApiContext;
use crate::error::{ApiError, ApiErrorBody};
use crate::extract::{Caller, JsonBody, PathParams, QueryParams};
use crate::openapi::formats;
use crate::schema::to_date;
use crate::v1::exec::check_user;

/// Files of a directory in one response.
const MAX_ENTRIES: usize = 10_000;

/// File or directory.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PathQuery {
    /// Absolute, or relative to the user's home directory.
    #[param(min_length = 1, max_length = 1_024, pattern = r"^[^\u0000]+$")]
    path: String,
    /// `developer` if omitted.
    #[param(value_type = Option<formats::GuestUser>)]
    user: Option<String>,
}

impl PathQuery {
    fn into_request(self) -> Result<guest::FileRequest, ApiError> {
        Ok(guest::FileRequest { path: check_path(self.path)?, user: check_user(self.user)? })
    }
}

/// Kind of a file.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum FileKind {
    File,
    Directory,
    Symlink,
    /// A device, pipe or socket.
    Other,
}

/// Description of a file.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FileEntry {
    /// Last part of the path.
    name: String,
    kind: FileKind,
    size: u64,
    /// Permission bits in octal.
    mode: String,
    #[serde(with = "time::serde::rfc3339")]
    modified_at: OffsetDateTime,
    uid: u32,
    gid: u32,
    /// Target of a link.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    target: Option<String>,
}

impl From<guest::FileEntry> for FileEntry {
    fn from(entry: guest::FileEntry) -> Self {
        Self {
            kind: match entry.kind() {
                guest::file_entry::Kind::File => FileKind::File,
                guest::file_entry::Kind::Directory => FileKind::Directory,
                guest::file_entry::Kind::Symlink => FileKind::Symlink,
                guest::file_entry::Kind::Other | guest::file_entry::Kind::Unspecified => FileKind::Other,
            },
            name: entry.name,
            size: entry.size,
            mode: format!("{:o}", entry.mode & 0o7777),
            modified_at: to_date(Timestamp::from_unix_ms(entry.modified_unix_s.saturating_mul(1000))),
            uid: entry.uid,
            gid: entry.gid,
            target: Some(entry.target).filter(|target| !target.is_empty()),
        }
    }
}

/// Files of a directory, in the order of their names.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ListFilesResponse {
    entries: Vec<FileEntry>,
    /// True if the directory has more files than a response.
    truncated: bool,
}

/// Change of a file.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FileChange {
    kind: FileChangeKind,
    /// Name in the watched directory; absent for what is watched itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    name: Option<String>,
}

/// Kind of a change.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum FileChangeKind {
    /// First event: changes from now on are reported.
    Watching,
    Created,
    /// The content, complete, or the permissions.
    Changed,
    Removed,
    /// Changes were too many to be reported: list the directory.
    Lost,
}

/// Directory to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MakeDirectoryRequest {
    #[schema(min_length = 1, max_length = 1_024, pattern = r"^[^\u0000]+$")]
    path: String,
    #[schema(value_type = Option<formats::GuestUser>)]
    user: Option<String>,
    /// Permission bits in octal; 755 if omitted.
    #[schema(pattern = "^0*[1-7][0-7]{0,3}$")]
    mode: Option<String>,
    /// Create missing parent directories, and accept a directory that exists.
    create_parents: Option<bool>,
}

/// New name of a file or directory.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RenameRequest {
    #[schema(min_length = 1, max_length = 1_024, pattern = r"^[^\u0000]+$")]
    from: String,
    /// A file of this name is replaced.
    #[schema(min_length = 1, max_length = 1_024, pattern = r"^[^\u0000]+$")]
    to: String,
    #[schema(value_type = Option<formats::GuestUser>)]
    user: Option<String>,
}

/// File or directory to remove.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RemoveQuery {
    /// Absolute, or relative to the user's home directory. A link is removed, not followed.
    #[param(min_length = 1, max_length = 1_024, pattern = r"^[^\u0000]+$")]
    path: String,
    /// `developer` if omitted.
    #[param(value_type = Option<formats::GuestUser>)]
    user: Option<String>,
    /// Remove a directory with everything in it.
    recursive: Option<bool>,
}

/// Describe a file
#[utoipa::path(
    get, path = "/workspaces/{id}/files/stat", operation_id = "stat_file", tag = "files", params(("id" = String, Path), PathQuery),
    responses(
        (status = 200, body = FileEntry),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody, description = "The workspace is not running"),
    ),
)]
pub(crate) async fn stat(
    State(context): State<ApiContext>,
    caller: Caller<ReadFiles>,
    PathParams(id): PathParams<String>,
    QueryParams(query): QueryParams<PathQuery>,
) -> Result<Json<FileEntry>, ApiError> {
    let permit = caller.workspace(&context, &id).await?;
    Ok(Json(context.guests.stat_file(&permit, query.into_request()?).await?.into()))
}

/// List the files of a directory
#[utoipa::path(
    get, path = "/workspaces/{id}/files/list", operation_id = "list_files", tag = "files", params(("id" = String, Path), PathQuery),
    responses(
        (status = 200, body = ListFilesResponse),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody, description = "The workspace is not running"),
    ),
)]
pub(crate) async fn list(
    State(context): State<ApiContext>,
    caller: Caller<ReadFiles>,
    PathParams(id): PathParams<String>,
    QueryParams(query): QueryParams<PathQuery>,
) -> Result<Json<ListFilesResponse>, ApiError> {
    let permit = caller.workspace(&context, &id).await?;
    let mut entries = context.guests.list_files(&permit, query.into_request()?, MAX_ENTRIES + 1).await?;
    let truncated = entries.len() > MAX_ENTRIES;
    entries.truncate(MAX_ENTRIES);
    Ok(Json(ListFilesResponse { entries: entries.into_iter().map(Into::into).collect(), truncated }))
}

/// Watch a directory, but not the directories in it, or a file; the response is a stream of events
#[utoipa::path(
    get, path = "/workspaces/{id}/files/watch", operation_id = "watch_files", tag = "files", params(("id" = String, Path), PathQuery),
    responses(
        (status = 200, body = FileChange, content_type = "text/event-stream"),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody, description = "The workspace is not running"),
    ),
)]
pub(crate) async fn watch(
    State(context): State<ApiContext>,
    caller: Caller<ReadFiles>,
    PathParams(id): PathParams<String>,
    QueryParams(query): QueryParams<PathQuery>,
) -> Result<Response, ApiError> {
    let permit = caller.workspace(&context, &id).await?;
    let mut changes = context.guests.watch_files(&permit, query.into_request()?).await?;
    // Failures come before the first event, and become a status.
    let first = changes.next().await?;
    let events = stream::unfold((first, changes), |(first, mut changes)| async {
        let event = match first {
            Some(event) => event,
            None => changes.next().await.ok()??,
        };
        let data = serde_json::to_string(&change_of(&event)).unwrap_or_default();
        Some((Ok::<_, Infallible>(Event::default().data(data)), (None, changes)))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}

fn change_of(event: &guest::FileEvent) -> FileChange {
    let kind = match event.kind() {
        guest::file_event::Kind::Watching => FileChangeKind::Watching,
        guest::file_event::Kind::Created => FileChangeKind::Created,
        guest::file_event::Kind::Changed => FileChangeKind::Changed,
        guest::file_event::Kind::Removed => FileChangeKind::Removed,
        guest::file_event::Kind::Lost | guest::file_event::Kind::Unspecified => FileChangeKind::Lost,
    };
    FileChange { kind, name: Some(event.name.clone()).filter(|name| !name.is_empty()) }
}

/// Create a directory
#[utoipa::path(
    post, path = "/workspaces/{id}/files/mkdir", operation_id = "make_directory", tag = "files", params(("id" = String, Path)),
    request_body = MakeDirectoryRequest,
    responses(
        (status = 204, description = "The directory exists"),
        (status = 400, body = ApiErrorBody),
        (status = 403, body = ApiErrorBody, description = "The user may not write there"),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody, description = "The workspace is not running"),
    ),
)]
pub(crate) async fn make_directory(
    State(context): State<ApiContext>,
    caller: Caller<WriteFiles>,
    PathParams(id): PathParams<String>,
    JsonBody(body): JsonBody<MakeDirectoryRequest>,
) -> Result<StatusCode, ApiError> {
    let permit = caller.workspace(&context, &id).await?;
    let change = Change::MakeDirectory(MakeDirectory {
        path: check_path(body.path)?,
        mode: body.mode.as_deref().map(parse_mode).transpose()?.unwrap_or(0),
        create_parents: body.create_parents.unwrap_or(false),
    });
    let request = ChangeFileRequest { user: check_user(body.user)?, change: Some(change) };
    context.guests.change_file(&permit, request).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Rename a file or directory
#[utoipa::path(
    post, path = "/workspaces/{id}/files/rename", operation_id = "rename_file", tag = "files", params(("id" = String, Path)),
    request_body = RenameRequest,
    responses(
        (status = 204, description = "It has the new name"),
        (status = 400, body = ApiErrorBody),
        (status = 403, body = ApiErrorBody, description = "The user may not write there"),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody, description = "The workspace is not running"),
    ),
)]
pub(crate) async fn rename(
    State(context): State<ApiContext>,
    caller: Caller<WriteFiles>,
    PathParams(id): PathParams<String>,
    JsonBody(body): JsonBody<RenameRequest>,
) -> Result<StatusCode, ApiError> {
    let permit = caller.workspace(&context, &id).await?;
    let change = Change::Rename(Rename { from: check_path(body.from)?, to: check_path(body.to)? });
    let request = ChangeFileRequest { user: check_user(body.user)?, change: Some(change) };
    context.guests.change_file(&permit, request).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Remove a file or directory
#[utoipa::path(
    delete, path = "/workspaces/{id}/files", operation_id = "remove_file", tag = "files", params(("id" = String, Path), RemoveQuery),
    responses(
        (status = 204, description = "It is gone"),
        (status = 400, body = ApiErrorBody),
        (status = 403, body = ApiErrorBody, description = "The user may not write there"),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody, description = "The workspace is not running"),
    ),
)]
pub(crate) async fn remove(
    State(context): State<ApiContext>,
    caller: Caller<WriteFiles>,
    PathParams(id): PathParams<String>,
    QueryParams(query): QueryParams<RemoveQuery>,
) -> Result<StatusCode, ApiError> {
    let permit = caller.workspace(&context, &id).await?;
    let change =
        Change::Remove(Remove { path: check_path(query.path)?, recursive: query.recursive.unwrap_or(false) });
    let request = ChangeFileRequest { user: check_user(query.user)?, change: Some(change) };
    context.guests.change_file(&permit, request).await?;
    Ok(StatusCode::NO_CONTENT)
}
