//! `/workspaces/{id}/files`: one file's bytes in and out.

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::header::CONTENT_TYPE;
use rigbox_core::authz::{ReadFiles, WriteFiles};
use rigbox_proto::guest::{FileInfo, ReadFileOutput, ReadFileRequest, WriteFileOpen, read_file_output};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::context::ApiContext;
use crate::error::{ApiError, ApiErrorBody};
use crate::extract::{Caller, PathId, QueryParams};
use crate::v1::exec::user;
use rigbox_service::guests::client::{GuestError, Output};

const MAX_PATH_LEN: usize = 4096;

/// Which file.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ReadQuery {
    /// Absolute, or relative to the user's home.
    path: String,
    /// `developer` (when left out) or `root`.
    user: Option<String>,
    /// First byte.
    offset: Option<u64>,
    /// At most so many bytes.
    limit: Option<u64>,
}

/// Which file, and how it is to be.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct WriteQuery {
    /// Absolute, or relative to the user's home.
    path: String,
    /// `developer` (when left out) or `root`.
    user: Option<String>,
    /// Permission bits in octal; 644 when left out.
    mode: Option<String>,
    /// Make the folders above it.
    create_parents: Option<bool>,
}

/// What was written.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WrittenFile {
    path: String,
    size: u64,
}

/// Read a file
#[utoipa::path(
    get, path = "/workspaces/{id}/files", tag = "files", params(("id" = String, Path), ReadQuery),
    responses(
        (status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 400, body = ApiErrorBody),
        (status = 403, body = ApiErrorBody, description = "The guest's user may not read it"),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody, description = "The workspace is not running"),
    ),
)]
pub(crate) async fn read(
    State(app): State<ApiContext>,
    caller: Caller<ReadFiles>,
    PathId(id): PathId,
    QueryParams(query): QueryParams<ReadQuery>,
) -> Result<Response, ApiError> {
    let permit = caller.workspace(&app, &id).await?;
    let request = ReadFileRequest {
        path: path(query.path)?,
        user: user(query.user)?,
        offset: query.offset.unwrap_or(0),
        limit: query.limit.unwrap_or(0),
    };
    let mut output = app.guests.read_file(&permit, request).await?;
    // The first message is the file's description: failures come as a status, not in the middle of the bytes.
    let info = match output.next().await? {
        Some(ReadFileOutput { output: Some(read_file_output::Output::Info(info)) }) => info,
        _ => return Err(ApiError::internal(&"the agent did not begin with the file's description")),
    };
    Ok((description(&info), Body::from_stream(content(output))).into_response())
}

/// No Content-Length: the file may grow or shrink while it is read.
fn description(info: &FileInfo) -> [(&'static str, String); 4] {
    [
        (CONTENT_TYPE.as_str(), "application/octet-stream".to_owned()),
        ("x-rigbox-file-size", info.size.to_string()),
        ("x-rigbox-file-mode", format!("{:o}", info.mode & 0o7777)),
        ("x-rigbox-file-modified", info.modified_unix_s.to_string()),
    ]
}

/// An error ends the answer without its last chunk, which clients notice.
fn content(output: Output<ReadFileOutput>) -> impl stream::Stream<Item = Result<Bytes, GuestError>> {
    stream::try_unfold(output, |mut output| async move {
        loop {
            match output.next().await? {
                None => return Ok(None),
                Some(ReadFileOutput { output: Some(read_file_output::Output::Data(data)) }) => {
                    return Ok(Some((data, output)));
                }
                Some(_) => {}
            }
        }
    })
}

/// Write a file; it appears under its name only when all of it has come
#[utoipa::path(
    put, path = "/workspaces/{id}/files", tag = "files", params(("id" = String, Path), WriteQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 200, body = WrittenFile),
        (status = 400, body = ApiErrorBody),
        (status = 403, body = ApiErrorBody, description = "The guest's user may not write there"),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody, description = "The workspace is not running"),
    ),
)]
pub(crate) async fn write(
    State(app): State<ApiContext>,
    caller: Caller<WriteFiles>,
    PathId(id): PathId,
    QueryParams(query): QueryParams<WriteQuery>,
    request: Request,
) -> Result<Json<WrittenFile>, ApiError> {
    let permit = caller.workspace(&app, &id).await?;
    let open = WriteFileOpen {
        path: path(query.path)?,
        user: user(query.user)?,
        mode: query.mode.as_deref().map(mode).transpose()?.unwrap_or(0),
        create_parents: query.create_parents.unwrap_or(false),
    };
    let path = open.path.clone();
    let size = app.guests.write_file(&permit, open, request.into_body().into_data_stream()).await?;
    Ok(Json(WrittenFile { path, size }))
}

fn path(path: String) -> Result<String, ApiError> {
    let fits = (1..=MAX_PATH_LEN).contains(&path.len()) && !path.contains('\0');
    if fits {
        Ok(path)
    } else {
        Err(ApiError::bad_request(format!("path: expected 1 to {MAX_PATH_LEN} bytes")))
    }
}

fn mode(text: &str) -> Result<u32, ApiError> {
    let bits = u32::from_str_radix(text, 8).ok().filter(|bits| (1..=0o7777).contains(bits));
    bits.ok_or_else(|| ApiError::bad_request("mode: expected octal permission bits such as 644"))
}
