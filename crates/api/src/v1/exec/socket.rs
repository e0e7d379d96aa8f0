//! `GET /workspaces/{id}/exec` as a WebSocket: a command with live input, or a terminal.

use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use http::StatusCode;
use rigbox_core::authz::{Exec, Permit};
use rigbox_core::ids::ProcessId;
use rigbox_proto::guest::{ExecInput, WindowSize, exec_input};
use serde::Deserialize;
use tokio::time::Instant;

use crate::context::ApiContext;
use crate::error::{ApiError, ApiErrorBody};
use crate::extract::{Caller, PathParams, parse};
use crate::middleware::open_request::{self, Revocation};
use crate::v1::exec::{self, ExecEvent, ExecRequest};
use crate::v1::websocket::{self, PING_INTERVAL};
use rigbox_service::guests::client::RunningCommand;
use rigbox_service::guests::request_stream::Input;

/// Enough for the maximum stdin of one request.
const MAX_MESSAGE_BYTES: usize = 2 * 1024 * 1024;
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Message of the client while the command runs.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum ClientMessage {
    StdinB64(String),
    Eof(bool),
    Signal(String),
    Resize { rows: u16, cols: u16 },
}

/// Run a command with live input, or a terminal
///
/// A WebSocket. The first message is the same object that `POST` takes, with `tty`, `rows` and `cols` for a
/// terminal. Then the client may send `{"stdin_b64":..}`, `{"eof":true}`, `{"signal":"INT"}` and
/// `{"resize":{"rows":..,"cols":..}}`; the server sends the objects of the `POST` response, and closes after
/// the last. A signal waits behind input that the command does not read; the route for signals gets ahead of
/// it, with the id in the response header `Rigbox-Process`.
#[utoipa::path(
    get, path = "/workspaces/{id}/exec", operation_id = "open_exec_socket", tag = "exec", params(("id" = String, Path)),
    responses(
        (status = 101, description = "The WebSocket is open"),
        (status = 404, body = ApiErrorBody),
        (status = 426, body = ApiErrorBody, description = "Not a WebSocket"),
    ),
)]
pub(crate) async fn exec_socket(
    State(context): State<ApiContext>,
    caller: Caller<Exec>,
    PathParams(id): PathParams<String>,
    revocation: Revocation,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let permit = caller.workspace(&context, &id).await?;
    let upgrade = websocket::required(upgrade, " Use POST for a plain request.")?;
    let process = exec::new_process_id()?;
    let header = [(exec::PROCESS_HEADER, process.to_string())];
    let upgraded = upgrade
        .max_message_size(MAX_MESSAGE_BYTES)
        .on_upgrade(move |socket| handle_socket(context, permit, process, revocation, socket));
    Ok((header, upgraded).into_response())
}

async fn handle_socket(
    context: ApiContext,
    permit: Permit<Exec>,
    process: ProcessId,
    revocation: Revocation,
    mut socket: WebSocket,
) {
    let served = async {
        match start_command(&context, &permit, &process, &mut socket).await? {
            Some((running, stdin)) => forward(running, stdin, &mut socket).await.map(|()| true),
            None => Ok(false),
        }
    };
    // Ended half-way, the command gets the signal of a caller that has gone.
    let outcome = tokio::select! {
        outcome = served => outcome,
        () = revocation.wait() => {
            Err(ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", open_request::ENDED))
        }
    };
    let failure = match outcome {
        Ok(true) => None,
        Ok(false) => return,
        Err(error) => Some(error),
    };
    let mut end = close_code::NORMAL;
    let mut reason = String::new();
    if let Some(error) = failure {
        end = if error.status().is_client_error() { close_code::POLICY } else { close_code::ERROR };
        let (code, message) = error.into_code_and_message();
        // The object before it has the message. (A reason has 123 bytes at most.)
        reason.clone_from(&code);
        send(&mut socket, &exec::event(&ExecEvent::failed(code, message))).await;
    }
    let _ = socket.send(Message::Close(Some(CloseFrame { code: end, reason: reason.into() }))).await;
}

/// Starts the command of the first message, which may contain stdin. Returns `None` if the client has disconnected.
async fn start_command(
    context: &ApiContext,
    permit: &Permit<Exec>,
    process: &ProcessId,
    socket: &mut WebSocket,
) -> Result<Option<(RunningCommand, Bytes)>, ApiError> {
    let first = tokio::time::timeout(FIRST_MESSAGE_TIMEOUT, next_text(socket)).await.map_err(|_| {
        let limit = FIRST_MESSAGE_TIMEOUT.as_secs();
        ApiError::bad_request(format!("The first message, with the command, did not come within {limit} s."))
    })?;
    let Some(text) = first? else { return Ok(None) };
    let (start, stdin) = parse::<ExecRequest>(text.as_bytes())?.into_start()?;
    let running = context.guests.exec(permit, process, start).await?;
    Ok(Some((running, stdin.unwrap_or_default())))
}

/// Forwards messages both ways until the command or the client has ended.
///
/// The directions do not wait for each other: a command may stop reading its input until its output is read. While neither moves, pings
/// find out whether the client is still there; the socket is not read while the command does not take its input.
async fn forward(
    RunningCommand { input, mut output }: RunningCommand,
    stdin: Bytes,
    socket: &mut WebSocket,
) -> Result<(), ApiError> {
    let (mut to_client, mut from_client) = socket.split();
    let to_socket = async {
        let mut ping = tokio::time::interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
        loop {
            let message = tokio::select! {
                message = output.next() => message,
                _ = ping.tick() => match to_client.send(Message::Ping(Bytes::new())).await {
                    Ok(()) => continue,
                    Err(_) => return Ok(()),
                },
            };
            let (line, last) = exec::render(message);
            if !send(&mut to_client, &line).await || last {
                return Ok(());
            }
        }
    };
    let from_socket = async {
        exec::send_stdin(&input, stdin).await;
        while let Some(text) = next_text(&mut from_client).await? {
            send_input(&input, parse(text.as_bytes())?).await?;
        }
        Ok(())
    };
    tokio::select! {
        done = to_socket => done,
        done = from_socket => done,
    }
}

async fn send_input(input: &Input<ExecInput>, message: ClientMessage) -> Result<(), ApiError> {
    let message = match message {
        ClientMessage::StdinB64(text) => {
            exec::send_stdin(input, exec::decode_stdin(&text)?).await;
            return Ok(());
        }
        ClientMessage::Eof(true) => {
            exec::send_eof(input).await;
            return Ok(());
        }
        ClientMessage::Eof(false) => return Ok(()),
        ClientMessage::Signal(name) => {
            exec::check_signal(&name)?;
            exec_input::Input::Signal(name)
        }
        ClientMessage::Resize { rows, cols } => {
            exec_input::Input::Resize(WindowSize { rows: rows.into(), cols: cols.into() })
        }
    };
    input.send(ExecInput { input: Some(message) }).await;
    Ok(())
}

/// Returns the client's next message, or `None` if it has disconnected.
async fn next_text(
    socket: &mut (impl Stream<Item = Result<Message, axum::Error>> + Unpin),
) -> Result<Option<String>, ApiError> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => return Ok(Some(text.to_string())),
            Some(Ok(Message::Binary(_))) => {
                return Err(ApiError::bad_request(
                    "Binary messages are not supported. Send text messages with JSON.",
                ));
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(None),
        }
    }
}

/// Sends one object per message. Returns `false` if the client has disconnected.
async fn send(socket: &mut (impl Sink<Message> + Unpin), line: &[u8]) -> bool {
    match std::str::from_utf8(line).map(str::trim_end) {
        Ok("") | Err(_) => true,
        Ok(text) => socket.send(Message::text(text)).await.is_ok(),
    }
}
