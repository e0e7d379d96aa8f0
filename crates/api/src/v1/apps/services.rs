//! Services behind apps, and listening ports: `/apps/{id}/start`, `/workspaces/{id}/listening-ports` and
//! others.

use std::collections::BTreeMap;
use std::convert::Infallible;

use axum::Json;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use rigbox_core::authz::{ManageApp, ReadApp, ReadPorts};
use rigbox_proto::guest::exec_output;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

use crate::context::ApiContext;
use crate::error::{ApiError, ApiErrorBody};
use crate::extract::{Caller, JsonBody, PathParams, QueryParams};
use crate::openapi::formats;
use crate::schema::to_date;
use crate::v1::apps::schema::{App, ServiceActionResponse};
use rigbox_service::apps::NewApp;
use rigbox_service::apps::services::{
    self, ServiceAction, ServiceCommand, is_valid_cursor, parse_journal_line, suggest_name,
};
use rigbox_service::guests::client::RunningCommand;
use rigbox_service::records::AppWithWorkspace;

const DEFAULT_LINES: u32 = 100;
pub(crate) const MAX_LINES: u32 = 1_000;
/// Lines of the journal over this limit are skipped.
const MAX_LINE_BYTES: usize = 256 * 1024;

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident, $id:literal, $path:literal, $action:expr, $outcome:literal;)*) => {$(
        $(#[$doc])*
        #[utoipa::path(
            post, path = $path, operation_id = $id, tag = "apps", params(("id" = String, Path)),
            responses(
                (status = 200, body = ServiceActionResponse),
                (status = 404, body = ApiErrorBody),
                (status = 409, body = ApiErrorBody, description = "The app has a service, and its workspace is not running"),
            ),
        )]
        pub(crate) async fn $name(
            State(context): State<ApiContext>,
            caller: Caller<ManageApp>,
            PathParams(id): PathParams<String>,
        ) -> Result<Json<ServiceActionResponse>, ApiError> {
            let (permit, found) = caller.app(&context, &id)?;
            let changed = context.app_services.perform(&permit, &found.app, $action).await?;
            let service_name = changed.app.service.clone().unwrap_or_default();
            let message = format!(concat!("App {} ", $outcome), changed.app.name);
            Ok(Json(ServiceActionResponse { message, app: context.render_app(changed), service_name }))
        }
    )*};
}

actions! {
    /// Forward requests to an app again, and start its service if it has one
    start, "start_app", "/apps/{id}/start", ServiceAction::Start, "started.";
    /// Stop forwarding requests to an app, and stop its service if it has one
    stop, "stop_app", "/apps/{id}/stop", ServiceAction::Stop, "stopped.";
    /// Restart an app's service
    restart, "restart_app", "/apps/{id}/restart", ServiceAction::Restart, "restarted.";
}

/// Command that runs an app.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetServiceRequest {
    /// Command line for bash. If omitted, the service runs what listens on the app's port now, and takes over at the app's next start.
    #[schema(value_type = Option<formats::CommandLine>)]
    command: Option<String>,
    /// Working directory, absolute; the user's home if omitted. Only with `command`.
    #[schema(pattern = r"^/[^\u0000-\u001f\u007f-\u009f]*$")]
    cwd: Option<String>,
    /// Environment variables, which are added to the app's parameters. Only with `command`.
    #[schema(value_type = Option<formats::AppParams>)]
    env_vars: Option<BTreeMap<String, String>>,
}

/// Create or replace the service that runs an app, and that starts with the workspace
#[utoipa::path(
    put, path = "/apps/{id}/service", operation_id = "set_app_service", tag = "apps", params(("id" = String, Path)), request_body = SetServiceRequest,
    responses(
        (status = 200, body = ServiceActionResponse),
        (status = 400, body = ApiErrorBody),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody, description = "The workspace is not running"),
        (status = 413, body = ApiErrorBody),
    ),
)]
pub(crate) async fn set_service(
    State(context): State<ApiContext>,
    caller: Caller<ManageApp>,
    PathParams(id): PathParams<String>,
    JsonBody(body): JsonBody<SetServiceRequest>,
) -> Result<Json<ServiceActionResponse>, ApiError> {
    let (permit, found) = caller.app(&context, &id)?;
    let (changed, message) = match body {
        SetServiceRequest { command: Some(command), cwd, env_vars } => {
            let command = ServiceCommand { command, cwd, params: env_vars.unwrap_or_default() };
            let changed = context.app_services.set_command(&permit, &found.app, &command).await?;
            let message = format!("App {} started. It starts with its workspace.", changed.app.name);
            (changed, message)
        }
        SetServiceRequest { command: None, cwd: None, env_vars: None } => {
            let Some(port) = found.app.port else {
                return Err(ApiError::bad_request("command: An app without a port needs a command."));
            };
            let listener = context.app_services.detect(&permit, port).await?;
            let changed = context.app_services.wrap(&permit, &found.app, &listener).await?;
            let message = wrapped_message(&changed);
            (changed, message)
        }
        SetServiceRequest { command: None, .. } => {
            return Err(ApiError::bad_request("command: `cwd` and `env_vars` need a command."));
        }
    };
    let service_name = changed.app.service.clone().unwrap_or_default();
    Ok(Json(ServiceActionResponse { message, app: context.render_app(changed), service_name }))
}

fn wrapped_message(app: &AppWithWorkspace) -> String {
    format!(
        "App {} now starts with its workspace. To let systemd take over now, stop the current program and start the app.",
        app.app.name
    )
}

/// Health of an app.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AppHealthResponse {
    /// True if the app is not stopped, and something listens on its port at an address that can be reached.
    live: bool,
    /// State according to systemd in the workspace; `unmanaged` for an app without a service.
    service_status: String,
    port_open: bool,
    /// True if the service listens, but only on other ports.
    port_drift: bool,
    /// Addresses on which something listens on the app's port. Loopback addresses cannot be reached from outside the workspace.
    listening_on: Vec<String>,
}

/// Get the health of an app
#[utoipa::path(
    get, path = "/apps/{id}/health", operation_id = "get_app_health", tag = "apps", params(("id" = String, Path)),
    responses(
        (status = 200, body = AppHealthResponse),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody),
    ),
)]
pub(crate) async fn health(
    State(context): State<ApiContext>,
    caller: Caller<ReadApp>,
    PathParams(id): PathParams<String>,
) -> Result<Json<AppHealthResponse>, ApiError> {
    let (permit, found) = caller.app(&context, &id)?;
    let health = context.app_services.health(&permit, &found).await?;
    Ok(Json(AppHealthResponse {
        live: health.live,
        service_status: health.service_status,
        port_open: health.port_open,
        port_drift: health.port_drift,
        listening_on: health.addresses,
    }))
}

/// Part of a log.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LogQuery {
    /// Maximum number of lines: 100 if omitted, at most 1,000.
    #[param(minimum = 1, maximum = 1_000)]
    lines: Option<u32>,
    /// `cursor` of the previous response, to get the lines after it.
    #[param(pattern = "^[A-Za-z0-9=;_-]{1,512}$")]
    cursor: Option<String>,
}

/// Returns the number of lines to send.
pub(crate) fn log_lines(requested: Option<u32>) -> Result<u32, ApiError> {
    let lines = requested.unwrap_or(DEFAULT_LINES);
    if (1..=MAX_LINES).contains(&lines) {
        Ok(lines)
    } else {
        Err(ApiError::bad_request(format!("lines: {lines} is out of range. Use 1 to {MAX_LINES}.")))
    }
}

impl LogQuery {
    fn cursor(&self) -> Result<Option<&str>, ApiError> {
        match self.cursor.as_deref() {
            Some(cursor) if !is_valid_cursor(cursor) => Err(crate::schema::invalid_cursor()),
            cursor => Ok(cursor),
        }
    }
}

/// Line of a log.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LogLine {
    /// Counts from 1 in this response.
    line_number: u32,
    message: String,
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    timestamp: Option<OffsetDateTime>,
}

impl LogLine {
    fn new(number: usize, line: services::LogLine) -> Self {
        let timestamp = line.at_us.map(|us| rigbox_core::time::Timestamp::from_unix_ms(us / 1000));
        Self::of(u32::try_from(number + 1).unwrap_or(u32::MAX), line.message, timestamp.map(to_date))
    }

    pub(crate) fn of(line_number: u32, message: String, timestamp: Option<OffsetDateTime>) -> Self {
        Self { line_number, message, timestamp }
    }
}

/// Source of an app's log.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AppLogSource {
    id: String,
    app_id: String,
    source_type: AppLogSourceType,
    /// Name of the unit.
    source_ref: String,
    is_primary: bool,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    updated_at: OffsetDateTime,
}

/// Kind of a log source.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum AppLogSourceType {
    SystemdUnit,
}

/// Lines of an app's log.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GetAppLogsResponse {
    source: AppLogSource,
    lines: Vec<LogLine>,
    /// True if there may already be more after `cursor`.
    has_more: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    cursor: Option<String>,
}

/// Get the last lines of an app's log, or those after a cursor
#[utoipa::path(
    get, path = "/apps/{id}/logs", operation_id = "get_app_logs", tag = "apps", params(("id" = String, Path), LogQuery),
    responses(
        (status = 200, body = GetAppLogsResponse),
        (status = 400, body = ApiErrorBody),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody, description = "The app has no service, or its workspace is not running"),
    ),
)]
pub(crate) async fn logs(
    State(context): State<ApiContext>,
    caller: Caller<ReadApp>,
    PathParams(id): PathParams<String>,
    QueryParams(query): QueryParams<LogQuery>,
) -> Result<Json<GetAppLogsResponse>, ApiError> {
    let (permit, found) = caller.app(&context, &id)?;
    let max_lines = log_lines(query.lines)?;
    let cursor = query.cursor()?;
    let lines = context.app_services.logs(&permit, &found.app, max_lines, cursor).await?;
    let last = lines.last().map(|line| line.cursor.clone()).or_else(|| cursor.map(str::to_owned));
    let app = found.app;
    Ok(Json(GetAppLogsResponse {
        has_more: cursor.is_some() && lines.len() == max_lines as usize,
        lines: lines.into_iter().enumerate().map(|(number, line)| LogLine::new(number, line)).collect(),
        cursor: last,
        source: AppLogSource {
            id: format!("{}-unit", app.id),
            app_id: app.id.to_string(),
            source_type: AppLogSourceType::SystemdUnit,
            source_ref: app.service.unwrap_or_default(),
            is_primary: true,
            created_at: to_date(app.created_at),
            updated_at: to_date(app.updated_at),
        },
    }))
}

/// Follow an app's log: server-sent events, one per line, whose id is the cursor
#[utoipa::path(
    get, path = "/apps/{id}/logs/stream", operation_id = "stream_app_logs", tag = "apps", params(("id" = String, Path), LogQuery),
    responses(
        (status = 200, content_type = "text/event-stream", body = formats::LogEvent, description = "Events, one per line of the log"),
        (status = 400, body = ApiErrorBody),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody, description = "The app has no service, or its workspace is not running"),
    ),
)]
pub(crate) async fn log_stream(
    State(context): State<ApiContext>,
    caller: Caller<ReadApp>,
    PathParams(id): PathParams<String>,
    QueryParams(query): QueryParams<LogQuery>,
) -> Result<Response, ApiError> {
    let (permit, found) = caller.app(&context, &id)?;
    let running = context.app_services.follow(&permit, &found.app, query.cursor()?).await?;
    let events = journal_lines(running).enumerate().map(|(number, line)| {
        let id = line.cursor.clone();
        let data = serde_json::to_string(&LogLine::new(number, line)).unwrap_or_default();
        Ok::<_, Infallible>(Event::default().id(id).data(data))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}

/// Returns the journal lines in the output of a command.
fn journal_lines(running: RunningCommand) -> impl Stream<Item = services::LogLine> + Send {
    let pieces = stream::unfold((running, Vec::new()), |(mut running, mut rest)| async move {
        loop {
            match running.output.next().await {
                Ok(Some(output)) => match output.output {
                    Some(exec_output::Output::Stdout(bytes)) => {
                        rest.extend_from_slice(&bytes);
                        let end = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                        let whole: Vec<u8> = rest.drain(..end).collect();
                        if rest.len() > MAX_LINE_BYTES {
                            rest.clear();
                        }
                        let lines: Vec<services::LogLine> =
                            whole.split(|byte| *byte == b'\n').filter_map(parse_journal_line).collect();
                        return Some((stream::iter(lines), (running, rest)));
                    }
                    Some(exec_output::Output::Exit(_)) => return None,
                    Some(exec_output::Output::Stderr(_)) | None => {}
                },
                Ok(None) | Err(_) => return None,
            }
        }
    });
    pieces.flatten()
}

/// Port on which something listens.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ListeningPort {
    port: u32,
    /// Address it is bound to; loopback addresses cannot be reached from outside the workspace.
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    process: Option<String>,
    /// True if an app exposes the port.
    already_exposed: bool,
}

/// Ports of a workspace.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ListListeningPortsResponse {
    ports: Vec<ListeningPort>,
}

/// List the listening ports of a running workspace
#[utoipa::path(
    get, path = "/workspaces/{id}/listening-ports", operation_id = "list_listening_ports", tag = "apps", params(("id" = String, Path)),
    responses(
        (status = 200, body = ListListeningPortsResponse),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody),
    ),
)]
pub(crate) async fn listening_ports(
    State(context): State<ApiContext>,
    caller: Caller<ReadPorts>,
    PathParams(id): PathParams<String>,
) -> Result<Json<ListListeningPortsResponse>, ApiError> {
    let permit = caller.workspace(&context, &id).await?;
    let ports = context.app_services.ports(&permit).await?;
    let ports = ports.into_iter().map(|(port, already_exposed)| ListeningPort {
        port: port.port,
        address: port.address,
        process: Some(port.process).filter(|name| !name.is_empty()),
        already_exposed,
    });
    Ok(Json(ListListeningPortsResponse { ports: ports.collect() }))
}

/// Port, and what to do with it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExposePortRequest {
    #[schema(minimum = 1, maximum = 65_535)]
    port: u16,
    /// `detect` describes the listener; `wrap` creates an app for it, and a service that starts with the
    /// workspace.
    step: ExposeStep,
    /// Name of the app for `wrap`; `detect` suggests one.
    #[schema(value_type = Option<formats::AppName>)]
    name: Option<String>,
}

/// Operation on a port.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ExposeStep {
    Detect,
    Wrap,
}

/// Step of `DetectResult`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum DetectStep {
    Detect,
}

/// Step of `WrapResult`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum WrapStep {
    Wrap,
}

/// Listener on a port.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DetectResult {
    step: DetectStep,
    port: u32,
    pid: u32,
    command: String,
    cwd: String,
    /// Names only.
    env_vars: Vec<String>,
    is_systemd: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    systemd_unit: Option<String>,
    process_name: String,
    suggested_name: String,
}

/// App created for a port.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WrapResult {
    step: WrapStep,
    message: String,
    app: App,
    service_name: String,
    /// True if the current listener still runs: the service takes over once it has stopped.
    needs_restart: bool,
}

/// Result of an operation on a port.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(discriminator(property_name = "step", mapping(
    ("detect" = "#/components/schemas/DetectResult"),
    ("wrap" = "#/components/schemas/WrapResult")
)))]
pub(crate) enum ExposePortResponse {
    /// Result of `detect`.
    Detect(DetectResult),
    /// Result of `wrap`.
    Wrap(Box<WrapResult>),
}

/// Describe the listener on a port, or create an app and a service for it
#[utoipa::path(
    post, path = "/workspaces/{id}/expose-port", operation_id = "expose_port", tag = "apps", params(("id" = String, Path)),
    request_body = ExposePortRequest,
    responses(
        (status = 200, body = ExposePortResponse),
        (status = 400, body = ApiErrorBody),
        (status = 402, body = ApiErrorBody),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody),
        (status = 413, body = ApiErrorBody),
    ),
)]
pub(crate) async fn expose_port(
    State(context): State<ApiContext>,
    caller: Caller<ManageApp>,
    PathParams(id): PathParams<String>,
    JsonBody(body): JsonBody<ExposePortRequest>,
) -> Result<Json<ExposePortResponse>, ApiError> {
    let permit = caller.workspace(&context, &id).await?;
    let listener = context.app_services.detect(&permit, body.port).await?;
    let suggested_name = suggest_name(&listener);
    match body.step {
        ExposeStep::Detect => Ok(Json(ExposePortResponse::Detect(DetectResult {
            step: DetectStep::Detect,
            port: listener.port,
            pid: listener.pid,
            command: listener.command.join(" "),
            cwd: listener.cwd,
            env_vars: listener.env_names,
            is_systemd: !listener.unit.is_empty(),
            systemd_unit: Some(listener.unit).filter(|unit| !unit.is_empty()),
            process_name: listener.process,
            suggested_name,
        }))),
        ExposeStep::Wrap => {
            // An app that exposes the port already gets the service, unless another name is asked for.
            let existing = permit
                .workspace()
                .map_or(Ok(None), |workspace| context.app_services.app_on_port(workspace, body.port))?
                .filter(|found| body.name.as_ref().is_none_or(|name| *name == found.app.name.as_str()));
            let app = match existing {
                Some(existing) => existing,
                None => {
                    let name = body.name.unwrap_or(suggested_name);
                    context.apps.create(&permit, NewApp::service(name, body.port), None).await?
                }
            };
            let wrapped = context.app_services.wrap(&permit, &app.app, &listener).await?;
            let service_name = wrapped.app.service.clone().unwrap_or_default();
            let message = wrapped_message(&wrapped);
            let app = context.render_app(wrapped);
            Ok(Json(ExposePortResponse::Wrap(Box::new(WrapResult {
                step: WrapStep::Wrap,
                message,
                app,
                service_name,
                needs_restart: true,
            }))))
        }
    }
}
