//! `GET /workspaces/{id}/exec` as a WebSocket: a command with live input, and terminals.

use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use http::StatusCode;
use rigbox_core::authz::{Exec, Permit};
use rigbox_proto::guest::{ExecInput, WindowSize, exec_input};
use serde::Deserialize;

use crate::context::ApiContext;
use crate::error::{ApiError, ApiErrorBody};
use crate::extract::{Caller, PathId, parse};
use crate::v1::exec::{self, ExecEvent, ExecRequest};
use rigbox_service::guests::client::RunningCommand;
use rigbox_service::guests::request_stream::Input;

/// As much as one request's stdin needs.
const LARGEST_MESSAGE: usize = 2 * 1024 * 1024;
/// Longest name of a signal.
const LONGEST_SIGNAL: usize = 16;

/// What the client says while the command runs: one of these.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Live {
    StdinB64(String),
    Eof(bool),
    Signal(String),
    Resize { rows: u16, cols: u16 },
}

/// Run a command with live input, or a terminal
///
/// A WebSocket. The first message is the same object that `POST` takes, with `tty`, `rows` and `cols` for a terminal.
/// Then the client may send `{"stdin_b64":..}`, `{"eof":true}`, `{"signal":"INT"}` and `{"resize":{"rows":..,"cols":..}}`;
/// the server sends the objects that `POST` answers with, and closes after the last.
#[utoipa::path(
    get, path = "/workspaces/{id}/exec", tag = "exec", params(("id" = String, Path)),
    responses(
        (status = 101, description = "The WebSocket is open"),
        (status = 404, body = ApiErrorBody),
        (status = 426, body = ApiErrorBody, description = "Not a WebSocket"),
    ),
)]
pub(crate) async fn exec_socket(
    State(app): State<ApiContext>,
    caller: Caller<Exec>,
    PathId(id): PathId,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let permit = caller.workspace(&app, &id).await?;
    let upgrade = upgrade.map_err(|error| {
        let text =
            format!("GET on this route is a WebSocket ({}); use POST for a plain request", error.body_text());
        ApiError::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", text)
    })?;
    Ok(upgrade.max_message_size(LARGEST_MESSAGE).on_upgrade(move |socket| converse(app, permit, socket)))
}

async fn converse(app: ApiContext, permit: Permit<Exec>, mut socket: WebSocket) {
    let failure = match begin(&app, &permit, &mut socket).await {
        Ok(Some(running)) => carry(running, &mut socket).await.err(),
        Ok(None) => return,
        Err(error) => Some(error),
    };
    if let Some(error) = failure {
        let (code, message) = error.into_code_and_message();
        send(&mut socket, &exec::event(&ExecEvent::failed(code, message))).await;
    }
    let _ = socket.send(Message::Close(None)).await;
}

/// Starts what the first message asks for; `None` when the client went away.
async fn begin(
    app: &ApiContext,
    permit: &Permit<Exec>,
    socket: &mut WebSocket,
) -> Result<Option<RunningCommand>, ApiError> {
    let Some(text) = next_text(socket).await? else { return Ok(None) };
    let (start, stdin) = parse::<ExecRequest>(text.as_bytes())?.into_start()?;
    let running = app.guests.exec(permit, start).await?;
    exec::send_stdin(&running.input, stdin.unwrap_or_default()).await;
    Ok(Some(running))
}

/// Carries messages both ways until the command or the client is gone.
///
/// The two ways do not wait for each other: a command may stop reading its input until somebody reads its output.
async fn carry(
    RunningCommand { input, mut output }: RunningCommand,
    socket: &mut WebSocket,
) -> Result<(), ApiError> {
    let (mut to_client, mut from_client) = socket.split();
    let outward = async {
        loop {
            let (line, last) = exec::render(output.next().await);
            if !send(&mut to_client, &line).await || last {
                return Ok(());
            }
        }
    };
    let inward = async {
        while let Some(text) = next_text(&mut from_client).await? {
            tell(&input, parse(text.as_bytes())?).await?;
        }
        Ok(())
    };
    tokio::select! {
        done = outward => done,
        gone = inward => gone,
    }
}

async fn tell(input: &Input<ExecInput>, live: Live) -> Result<(), ApiError> {
    let message = match live {
        Live::StdinB64(text) => {
            exec::send_stdin(input, exec::decode_stdin(&text)?).await;
            return Ok(());
        }
        Live::Eof(true) => {
            exec::send_eof(input).await;
            return Ok(());
        }
        Live::Eof(false) => return Ok(()),
        Live::Signal(name)
            if (1..=LONGEST_SIGNAL).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_alphanumeric()) =>
        {
            exec_input::Input::Signal(name)
        }
        Live::Signal(_) => return Err(ApiError::bad_request("signal: expected a name such as INT or TERM")),
        Live::Resize { rows, cols } => {
            exec_input::Input::Resize(WindowSize { rows: rows.into(), cols: cols.into() })
        }
    };
    input.send(ExecInput { input: Some(message) }).await;
    Ok(())
}

/// The client's next message; `None` when it has gone.
async fn next_text(
    socket: &mut (impl Stream<Item = Result<Message, axum::Error>> + Unpin),
) -> Result<Option<String>, ApiError> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => return Ok(Some(text.to_string())),
            Some(Ok(Message::Binary(_))) => {
                return Err(ApiError::bad_request("expected text messages of JSON"));
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(None),
        }
    }
}

/// One object per message; `false` when the client has gone.
async fn send(socket: &mut (impl Sink<Message> + Unpin), line: &[u8]) -> bool {
    match std::str::from_utf8(line).map(str::trim_end) {
        Ok("") | Err(_) => true,
        Ok(text) => socket.send(Message::text(text)).await.is_ok(),
    }
}
