//! Commands by id: those that run, and those in the background.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use rigbox_core::authz::Exec;
use rigbox_core::ids::{InvalidId, ProcessId};
use rigbox_core::time::Timestamp;
use rigbox_proto::guest;
use rigbox_proto::guest::exec_exit::Outcome;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::context::ApiContext;
use crate::error::{ApiError, ApiErrorBody};
use crate::extract::{Caller, JsonBody, PathParams};
use crate::openapi::formats;
use crate::schema::to_date;
use crate::v1::exec::{self, ExecError, ExecEvent, ExecRequest};

/// Command in a workspace.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Process {
    id: String,
    /// Process id in the workspace.
    pid: u32,
    /// Command line, at most 200 characters of it.
    command: String,
    user: String,
    /// True if it runs in the background; else it ends with its caller.
    detached: bool,
    status: ProcessStatus,
    #[serde(with = "time::serde::rfc3339")]
    started_at: OffsetDateTime,
    /// Present if it has exited.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    exit_code: Option<i32>,
    /// Present if a signal killed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    signal: Option<String>,
    /// Present if it did not end by itself, for example after its timeout.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    error: Option<ExecError>,
}

/// Status of a command.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ProcessStatus {
    Running,
    Ended,
}

impl From<guest::Process> for Process {
    fn from(process: guest::Process) -> Self {
        let mut shown = Self {
            id: process.id,
            pid: process.pid,
            command: process.command,
            user: process.user,
            detached: process.detached,
            status: if process.exit.is_some() { ProcessStatus::Ended } else { ProcessStatus::Running },
            started_at: to_date(Timestamp::from_unix_ms(process.started_unix_ms)),
            exit_code: None,
            signal: None,
            error: None,
        };
        match process.exit.and_then(|exit| exit.outcome) {
            Some(Outcome::ExitCode(code)) => shown.exit_code = Some(code),
            Some(Outcome::Signal(signal)) => shown.signal = Some(signal),
            Some(Outcome::Error(error)) => shown.error = Some(ExecError::new(error.code, error.message)),
            None => {}
        }
        shown
    }
}

/// One command.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProcessResponse {
    process: Process,
}

/// Commands, oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ListProcessesResponse {
    processes: Vec<Process>,
}

/// Signal to send.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignalRequest {
    /// Name, for example `TERM`.
    #[schema(value_type = formats::SignalName)]
    signal: String,
}

/// List the commands that run, and the newest 32 background commands that have ended
#[utoipa::path(
    get, path = "/workspaces/{id}/processes", operation_id = "list_processes", tag = "exec", params(("id" = String, Path)),
    responses(
        (status = 200, body = ListProcessesResponse),
        (status = 409, body = ApiErrorBody, description = "The workspace is not running"),
    ),
)]
pub(crate) async fn list(
    State(context): State<ApiContext>,
    caller: Caller<Exec>,
    PathParams(id): PathParams<String>,
) -> Result<Json<ListProcessesResponse>, ApiError> {
    let permit = caller.workspace(&context, &id).await?;
    let processes = context.guests.list_processes(&permit).await?;
    Ok(Json(ListProcessesResponse { processes: processes.into_iter().map(Process::from).collect() }))
}

/// Start a command in the background
///
/// It takes the same object as a command with a caller, but neither stdin nor a terminal. The newest 256 KiB of
/// its output are kept while the workspace runs.
#[utoipa::path(
    post, path = "/workspaces/{id}/processes", operation_id = "start_process", tag = "exec", params(("id" = String, Path)),
    request_body = ExecRequest,
    responses(
        (status = 201, body = ProcessResponse),
        (status = 400, body = ApiErrorBody),
        (status = 403, body = ApiErrorBody, description = "The program is not executable"),
        (status = 404, body = ApiErrorBody, description = "Workspace or program not found"),
        (status = 409, body = ApiErrorBody, description = "The workspace is not running"),
    ),
)]
pub(crate) async fn start(
    State(context): State<ApiContext>,
    caller: Caller<Exec>,
    PathParams(id): PathParams<String>,
    JsonBody(request): JsonBody<ExecRequest>,
) -> Result<(StatusCode, Json<ProcessResponse>), ApiError> {
    let permit = caller.workspace(&context, &id).await?;
    let (start, stdin) = request.into_start()?;
    if start.tty.is_some() || stdin.is_some() {
        return Err(ApiError::bad_request("A command in the background has no terminal and no stdin."));
    }
    let process = context.guests.start_process(&permit, &exec::new_process_id()?, start).await?;
    Ok((StatusCode::CREATED, Json(ProcessResponse { process: process.into() })))
}

/// Read the output of a background command: what was kept of it, then what follows, one JSON object per line
#[utoipa::path(
    get, path = "/workspaces/{id}/processes/{process}/output", operation_id = "read_process_output", tag = "exec",
    params(("id" = String, Path), ("process" = String, Path)),
    responses(
        (status = 200, body = ExecEvent, content_type = "application/x-ndjson"),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody, description = "The workspace is not running"),
    ),
)]
pub(crate) async fn output(
    State(context): State<ApiContext>,
    caller: Caller<Exec>,
    PathParams((id, process)): PathParams<(String, String)>,
) -> Result<Response, ApiError> {
    let permit = caller.workspace(&context, &id).await?;
    let output = context.guests.read_output(&permit, &parse(&process)?).await?;
    Ok(exec::ndjson(std::future::pending(), output))
}

/// Send a signal to a command
#[utoipa::path(
    post, path = "/workspaces/{id}/processes/{process}/signal", operation_id = "signal_process", tag = "exec",
    params(("id" = String, Path), ("process" = String, Path)), request_body = SignalRequest,
    responses(
        (status = 204, description = "The signal was sent"),
        (status = 400, body = ApiErrorBody),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody, description = "The command has ended, or the workspace is not running"),
    ),
)]
pub(crate) async fn signal(
    State(context): State<ApiContext>,
    caller: Caller<Exec>,
    PathParams((id, process)): PathParams<(String, String)>,
    JsonBody(request): JsonBody<SignalRequest>,
) -> Result<StatusCode, ApiError> {
    let permit = caller.workspace(&context, &id).await?;
    exec::check_signal(&request.signal)?;
    context.guests.signal_process(&permit, &parse(&process)?, &request.signal).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn parse(process: &str) -> Result<ProcessId, ApiError> {
    // What has not the form of an id names no process.
    process.parse().map_err(|_: InvalidId| {
        let shown: String = process.chars().take(64).collect();
        ApiError::new(StatusCode::NOT_FOUND, "not_found", format!("Process `{shown}` not found."))
    })
}
