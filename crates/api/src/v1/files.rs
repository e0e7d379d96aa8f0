//! `/workspaces/{id}/files`: reading and writing one file. What concerns names and directories is in `tree`.

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
use crate::extract::{Caller, PathParams, QueryParams};
use crate::openapi::formats;
use crate::v1::exec::check_user;
use rigbox_service::guests::client::{GuestError, Output};

pub(crate) mod tree;

const MAX_PATH_LEN: usize = 4096;

/// File to read.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ReadQuery {
    /// Absolute, or relative to the user's home directory; up to 4,096 bytes.
    #[param(min_length = 1, max_length = 1_024, pattern = r"^[^\u0000]+$")]
    path: String,
    /// `developer` if omitted.
    #[param(value_type = Option<formats::GuestUser>)]
    user: Option<String>,
    /// First byte.
    #[param(maximum = 9_223_372_036_854_775_807_isize)]
    offset: Option<u64>,
    /// Maximum number of bytes.
    #[param(maximum = 9_223_372_036_854_775_807_isize)]
    limit: Option<u64>,
}

/// File to write.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct WriteQuery {
    /// Absolute, or relative to the user's home directory; up to 4,096 bytes.
    #[param(min_length = 1, max_length = 1_024, pattern = r"^[^\u0000]+$")]
    path: String,
    /// `developer` if omitted.
    #[param(value_type = Option<formats::GuestUser>)]
    user: Option<String>,
    /// Permission bits in octal. If omitted, those of the file that exists, or 644.
    #[param(pattern = "^0*[1-7][0-7]{0,3}$")]
    mode: Option<String>,
    /// Create missing parent directories.
    create_parents: Option<bool>,
}

/// Written file.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WrittenFile {
    path: String,
    size: u64,
}

/// Read a file
#[utoipa::path(
    get, path = "/workspaces/{id}/files", operation_id = "read_file", tag = "files", params(("id" = String, Path), ReadQuery),
    responses(
        (status = 200, body = inline(formats::Bytes), content_type = "application/octet-stream"),
        (status = 400, body = ApiErrorBody),
        (status = 403, body = ApiErrorBody, description = "The user may not read the file"),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody, description = "The workspace is not running"),
    ),
)]
pub(crate) async fn read(
    State(context): State<ApiContext>,
    caller: Caller<ReadFiles>,
    PathParams(id): PathParams<String>,
    QueryParams(query): QueryParams<ReadQuery>,
) -> Result<Response, ApiError> {
    let permit = caller.workspace(&context, &id).await?;
    let request = ReadFileRequest {
        path: check_path(query.path)?,
        user: check_user(query.user)?,
        offset: query.offset.unwrap_or(0),
        limit: query.limit.unwrap_or(0),
    };
    let mut output = context.guests.read_file(&permit, request).await?;
    // The first message describes the file, so that failures become a status instead of breaking the body.
    let info = match output.next().await? {
        Some(ReadFileOutput { output: Some(read_file_output::Output::Info(info)) }) => info,
        _ => return Err(ApiError::internal(&"the agent's first message is not the file's description")),
    };
    Ok((headers(&info), Body::from_stream(content(output))).into_response())
}

/// Returns the headers of a file. No Content-Length: the file may grow or shrink while it is read.
fn headers(info: &FileInfo) -> [(&'static str, String); 4] {
    [
        (CONTENT_TYPE.as_str(), "application/octet-stream".to_owned()),
        ("x-rigbox-file-size", info.size.to_string()),
        ("x-rigbox-file-mode", format!("{:o}", info.mode & 0o7777)),
        ("x-rigbox-file-modified", info.modified_unix_s.to_string()),
    ]
}

/// Returns the body. An error ends it without the last chunk, which clients notice.
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

/// Write a file, whose content changes only when the request is complete
///
/// It ends up where `cat > FILE` would put it: a file that exists keeps its owner, its links and, without
/// `mode`, its permission bits. What is not a regular file is refused.
#[utoipa::path(
    put, path = "/workspaces/{id}/files", operation_id = "write_file", tag = "files", params(("id" = String, Path), WriteQuery),
    request_body(content = inline(formats::Bytes), content_type = "application/octet-stream"),
    responses(
        (status = 200, body = WrittenFile),
        (status = 400, body = ApiErrorBody),
        (status = 403, body = ApiErrorBody, description = "The user may not write there"),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody, description = "The workspace is not running"),
    ),
)]
pub(crate) async fn write(
    State(context): State<ApiContext>,
    caller: Caller<WriteFiles>,
    PathParams(id): PathParams<String>,
    QueryParams(query): QueryParams<WriteQuery>,
    request: Request,
) -> Result<Json<WrittenFile>, ApiError> {
    let permit = caller.workspace(&context, &id).await?;
    let open = WriteFileOpen {
        path: check_path(query.path)?,
        user: check_user(query.user)?,
        mode: query.mode.as_deref().map(parse_mode).transpose()?.unwrap_or(0),
        create_parents: query.create_parents.unwrap_or(false),
    };
    let path = open.path.clone();
    let size = context.guests.write_file(&permit, open, request.into_body().into_data_stream()).await?;
    Ok(Json(WrittenFile { path, size }))
}

pub(crate) fn check_path(path: String) -> Result<String, ApiError> {
    let fits = (1..=MAX_PATH_LEN).contains(&path.len()) && !path.contains('\0');
    if fits {
        Ok(path)
    } else {
        Err(ApiError::bad_request(format!(
            "path: The path is invalid. Use 1 to {MAX_PATH_LEN} bytes without NUL."
        )))
    }
}

pub(crate) fn parse_mode(text: &str) -> Result<u32, ApiError> {
    let bits = u32::from_str_radix(text, 8).ok().filter(|bits| (1..=0o7777).contains(bits));
    bits.ok_or_else(|| {
        ApiError::bad_request("mode: The mode is invalid. Use octal permission bits such as 644.")
    })
}
