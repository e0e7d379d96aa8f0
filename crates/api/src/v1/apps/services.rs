//! `/apps/{id}/start` and the like, and the ports of a workspace: apps as services of their workspace.

use std::convert::Infallible;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use rigbox_core::authz::{ManageApp, ReadApp, ReadPorts};
use rigbox_proto::guest::exec_output;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

use crate::context::ApiContext as Server;
use crate::error::{ApiError, ApiErrorBody};
use crate::extract::{Caller, JsonBody, QueryParams};
use crate::schema::date;
use crate::v1::apps::schema::{App, ServiceActionResponse};
use rigbox_service::apps::NewApp;
use rigbox_service::apps::services::{Line, ServiceAction, is_cursor, line, suggested_name};
use rigbox_service::guests::client::RunningCommand;

const DEFAULT_LINES: u32 = 100;
pub(crate) const MAX_LINES: u32 = 1_000;
/// A line of the journal that is longer is left out.
const MAX_LINE_BYTES: usize = 256 * 1024;

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident, $path:literal, $event:expr, $done:literal;)*) => {$(
        $(#[$doc])*
        #[utoipa::path(
            post, path = $path, tag = "apps", params(("id" = String, Path)),
            responses(
                (status = 200, body = ServiceActionResponse),
                (status = 404, body = ApiErrorBody),
                (status = 409, body = ApiErrorBody, description = "It is a service, and its workspace does not run"),
            ),
        )]
        pub(crate) async fn $name(
            State(server): State<Server>,
            caller: Caller<ManageApp>,
            Path(id): Path<String>,
        ) -> Result<Json<ServiceActionResponse>, ApiError> {
            let (permit, found) = caller.app(&server, &id)?;
            let changed = server.app_services.perform(&permit, &found.app, $event).await?;
            let service_name = changed.app.service.clone().unwrap_or_default();
            let message = format!(concat!("app {} ", $done), changed.app.name);
            Ok(Json(ServiceActionResponse { message, app: server.shown(changed), service_name }))
        }
    )*};
}

actions! {
    /// Have requests go to an app again, and start its service if it is one
    start, "/apps/{id}/start", ServiceAction::Start, "is started";
    /// Have no request go to an app, and stop its service if it is one
    stop, "/apps/{id}/stop", ServiceAction::Stop, "is stopped";
    /// Start an app's service anew
    restart, "/apps/{id}/restart", ServiceAction::Restart, "is started anew";
}

/// How an app is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AppHealthResponse {
    /// It is not stopped, and something listens on its port where it can be reached.
    live: bool,
    /// What systemd in the workspace says, or `unmanaged` for an app without a service.
    service_status: String,
    port_open: bool,
    /// Its service listens on other ports only.
    port_drift: bool,
}

/// How an app is
#[utoipa::path(
    get, path = "/apps/{id}/health", tag = "apps", params(("id" = String, Path)),
    responses(
        (status = 200, body = AppHealthResponse),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody),
    ),
)]
pub(crate) async fn health(
    State(server): State<Server>,
    caller: Caller<ReadApp>,
    Path(id): Path<String>,
) -> Result<Json<AppHealthResponse>, ApiError> {
    let (permit, found) = caller.app(&server, &id)?;
    let health = server.app_services.health(&permit, &found).await?;
    Ok(Json(AppHealthResponse {
        live: health.live,
        service_status: health.service_status,
        port_open: health.port_open,
        port_drift: health.port_drift,
    }))
}

/// Which part of a log.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LogQuery {
    /// At most so many: 100 when left out, 1,000 at most.
    #[param(minimum = 1, maximum = 1_000)]
    lines: Option<u32>,
    /// `cursor` of the answer before: what came after it.
    cursor: Option<String>,
}

impl LogQuery {
    pub(crate) fn lines(&self) -> Result<u32, ApiError> {
        let lines = self.lines.unwrap_or(DEFAULT_LINES);
        if (1..=MAX_LINES).contains(&lines) {
            Ok(lines)
        } else {
            Err(ApiError::bad_request(format!("lines: {lines} is not between 1 and {MAX_LINES}")))
        }
    }

    /// As it came.
    pub(crate) fn text(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    fn cursor(&self) -> Result<Option<&str>, ApiError> {
        match self.cursor.as_deref() {
            Some(cursor) if !is_cursor(cursor) => Err(crate::schema::bad_cursor()),
            cursor => Ok(cursor),
        }
    }
}

/// A line of a log.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LogLine {
    /// From 1, in this answer.
    line_number: u32,
    message: String,
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    timestamp: Option<OffsetDateTime>,
}

impl LogLine {
    fn new(number: usize, line: Line) -> Self {
        let moment = line.at_us.map(|us| rigbox_core::time::Timestamp::from_unix_ms(us / 1000));
        Self::of(u32::try_from(number + 1).unwrap_or(u32::MAX), line.message, moment.map(date))
    }

    pub(crate) fn of(line_number: u32, message: String, timestamp: Option<OffsetDateTime>) -> Self {
        Self { line_number, message, timestamp }
    }
}

/// Where an app's log is.
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

/// Kinds of logs.
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
    /// There may be more after `cursor` already.
    has_more: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    cursor: Option<String>,
}

/// The last lines of an app's log, or those after a cursor
#[utoipa::path(
    get, path = "/apps/{id}/logs", tag = "apps", params(("id" = String, Path), LogQuery),
    responses(
        (status = 200, body = GetAppLogsResponse),
        (status = 400, body = ApiErrorBody),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody, description = "The app has no service, or its workspace does not run"),
    ),
)]
pub(crate) async fn logs(
    State(server): State<Server>,
    caller: Caller<ReadApp>,
    Path(id): Path<String>,
    QueryParams(query): QueryParams<LogQuery>,
) -> Result<Json<GetAppLogsResponse>, ApiError> {
    let (permit, found) = caller.app(&server, &id)?;
    let wanted = query.lines()?;
    let cursor = query.cursor()?;
    let lines = server.app_services.logs(&permit, &found.app, wanted, cursor).await?;
    let last = lines.last().map(|line| line.cursor.clone()).or_else(|| cursor.map(str::to_owned));
    let app = found.app;
    Ok(Json(GetAppLogsResponse {
        has_more: cursor.is_some() && lines.len() == wanted as usize,
        lines: lines.into_iter().enumerate().map(|(number, line)| LogLine::new(number, line)).collect(),
        cursor: last,
        source: AppLogSource {
            id: format!("{}-unit", app.id),
            app_id: app.id.to_string(),
            source_type: AppLogSourceType::SystemdUnit,
            source_ref: app.service.unwrap_or_default(),
            is_primary: true,
            created_at: date(app.created_at),
            updated_at: date(app.updated_at),
        },
    }))
}

/// An app's log as it is written: server-sent events, each a line; its id is the cursor
#[utoipa::path(
    get, path = "/apps/{id}/logs/stream", tag = "apps", params(("id" = String, Path), LogQuery),
    responses(
        (status = 200, content_type = "text/event-stream", body = String),
        (status = 400, body = ApiErrorBody),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody, description = "The app has no service, or its workspace does not run"),
    ),
)]
pub(crate) async fn log_stream(
    State(server): State<Server>,
    caller: Caller<ReadApp>,
    Path(id): Path<String>,
    QueryParams(query): QueryParams<LogQuery>,
) -> Result<Response, ApiError> {
    let (permit, found) = caller.app(&server, &id)?;
    let running = server.app_services.follow(&permit, &found.app, query.cursor()?).await?;
    let events = lines_of(running).enumerate().map(|(number, line)| {
        let id = line.cursor.clone();
        let data = serde_json::to_string(&LogLine::new(number, line)).unwrap_or_default();
        Ok::<_, Infallible>(Event::default().id(id).data(data))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}

/// The lines of the journal that a command writes.
fn lines_of(running: RunningCommand) -> impl Stream<Item = Line> + Send {
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
                        let lines: Vec<Line> = whole.split(|byte| *byte == b'\n').filter_map(line).collect();
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

/// A port that something listens on.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ListeningPort {
    port: u32,
    /// What it is bound to; what is bound to a loopback address is not reached from outside the workspace.
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    process: Option<String>,
    /// An app is there already.
    already_exposed: bool,
}

/// Ports of a workspace.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ListListeningPortsResponse {
    ports: Vec<ListeningPort>,
}

/// The ports that something listens on in a running workspace
#[utoipa::path(
    get, path = "/workspaces/{id}/listening-ports", tag = "apps", params(("id" = String, Path)),
    responses(
        (status = 200, body = ListListeningPortsResponse),
        (status = 404, body = ApiErrorBody),
        (status = 409, body = ApiErrorBody),
    ),
)]
pub(crate) async fn listening_ports(
    State(server): State<Server>,
    caller: Caller<ReadPorts>,
    Path(id): Path<String>,
) -> Result<Json<ListListeningPortsResponse>, ApiError> {
    let permit = caller.workspace(&server, &id).await?;
    let ports = server.app_services.ports(&permit).await?;
    let shown = ports.into_iter().map(|(port, already_exposed)| ListeningPort {
        port: port.port,
        address: port.address,
        process: Some(port.process).filter(|name| !name.is_empty()),
        already_exposed,
    });
    Ok(Json(ListListeningPortsResponse { ports: shown.collect() }))
}

/// What to do with a port.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExposePortRequest {
    port: u16,
    /// `detect` says what listens there; `wrap` makes an app of it, and a service that starts with the workspace.
    step: ExposeStep,
    /// The app's name, for `wrap`; suggested by `detect`.
    name: Option<String>,
}

/// See `ExposePortRequest`.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ExposeStep {
    Detect,
    Wrap,
}

/// What listens on a port.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DetectResult {
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

/// The app that was made of a port.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WrapResult {
    message: String,
    app: App,
    service_name: String,
    /// What listened before still does: the service takes over once that has ended.
    needs_restart: bool,
}

/// What a port is, or has become.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "step", rename_all = "snake_case")]
pub(crate) enum ExposePortResponse {
    /// See `ExposePortRequest`.
    Detect(DetectResult),
    /// See `ExposePortRequest`.
    Wrap(Box<WrapResult>),
}

/// Look what listens on a port, or make an app and a service of it
#[utoipa::path(
    post, path = "/workspaces/{id}/expose-port", tag = "apps", params(("id" = String, Path)),
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
    State(server): State<Server>,
    caller: Caller<ManageApp>,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<ExposePortRequest>,
) -> Result<Json<ExposePortResponse>, ApiError> {
    let permit = caller.workspace(&server, &id).await?;
    let what = server.app_services.detect(&permit, body.port).await?;
    let suggested_name = suggested_name(&what);
    match body.step {
        ExposeStep::Detect => Ok(Json(ExposePortResponse::Detect(DetectResult {
            port: what.port,
            pid: what.pid,
            command: what.command.join(" "),
            cwd: what.cwd,
            env_vars: what.env_names,
            is_systemd: !what.unit.is_empty(),
            systemd_unit: Some(what.unit).filter(|unit| !unit.is_empty()),
            process_name: what.process,
            suggested_name,
        }))),
        ExposeStep::Wrap => {
            let name = body.name.unwrap_or(suggested_name);
            let made = server.apps.create(&permit, NewApp::service(name, body.port), None).await?;
            let wrapped = server.app_services.wrap(&permit, &made.app, &what).await?;
            let service_name = wrapped.app.service.clone().unwrap_or_default();
            let message = format!(
                "app {} is made, and starts with its workspace; end what listens now and start the app to let systemd take over",
                wrapped.app.name
            );
            let app = server.shown(wrapped);
            Ok(Json(ExposePortResponse::Wrap(Box::new(WrapResult {
                message,
                app,
                service_name,
                needs_restart: true,
            }))))
        }
    }
}
