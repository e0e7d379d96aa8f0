//! `GET /workspaces/{id}/ssh/stream`: an SSH connection within a WebSocket, for clients that reach nothing but the API.

use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use http::StatusCode;
use rigbox_core::authz::OpenSsh;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::context::ApiContext;
use crate::error::{ApiError, ApiErrorBody};
use crate::extract::{Caller, PathParams};
use crate::middleware::open_request::{self, Revocation};
use crate::v1::websocket::{self, PING_INTERVAL};

/// Maximum length of a client's message.
const MAX_MESSAGE_BYTES: usize = 256 * 1024;
const CHUNK_BYTES: usize = 64 * 1024;

/// Open an SSH connection to the gateway
///
/// A WebSocket, whose binary messages are the bytes of an SSH connection. The API key opens it; the log-in within needs an SSH key, and its
/// user name decides about the workspace.
#[utoipa::path(
    get, path = "/workspaces/{id}/ssh/stream", operation_id = "open_ssh_stream", tag = "ssh-keys", params(("id" = String, Path)),
    responses(
        (status = 101, description = "The WebSocket is open"),
        (status = 404, body = ApiErrorBody),
        (status = 426, body = ApiErrorBody, description = "Not a WebSocket"),
    ),
)]
pub(crate) async fn open(
    State(context): State<ApiContext>,
    caller: Caller<OpenSsh>,
    PathParams(id): PathParams<String>,
    revocation: Revocation,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let permit = caller.workspace(&context, &id).await?;
    let upgrade = websocket::required(upgrade, "")?;
    let unavailable = || {
        let text = "The SSH gateway is not running. Try again.";
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", text)
    };
    let streams = context.ssh_streams.as_ref().ok_or_else(unavailable)?;
    let stream = streams.open(&permit).await.map_err(|error| {
        tracing::warn!(%error, "the SSH gateway does not take a connection");
        unavailable()
    })?;
    Ok(upgrade
        .max_message_size(MAX_MESSAGE_BYTES)
        .on_upgrade(move |socket| serve(socket, stream, revocation)))
}

async fn serve(mut socket: WebSocket, stream: UnixStream, revocation: Revocation) {
    let (code, reason) = tokio::select! {
        () = forward(&mut socket, stream) => (close_code::NORMAL, ""),
        () = revocation.wait() => (close_code::POLICY, open_request::ENDED),
    };
    let _ = socket.send(Message::Close(Some(CloseFrame { code, reason: reason.into() }))).await;
}

/// Forwards bytes both ways until either side ends.
async fn forward(socket: &mut WebSocket, stream: UnixStream) {
    let (mut to_client, mut from_client) = socket.split();
    let (mut from_gateway, mut to_gateway) = stream.into_split();
    let to_socket = async {
        let mut ping = tokio::time::interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(CHUNK_BYTES);
            let message = tokio::select! {
                read = from_gateway.read_buf(&mut buffer) => match read {
                    Ok(1..) => Message::Binary(buffer.split().freeze()),
                    Ok(0) | Err(_) => return,
                },
                _ = ping.tick() => Message::Ping(Bytes::new()),
            };
            if to_client.send(message).await.is_err() {
                return;
            }
        }
    };
    let from_socket = async {
        while let Some(Ok(message)) = from_client.next().await {
            match message {
                Message::Binary(bytes) => {
                    if to_gateway.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                Message::Ping(_) | Message::Pong(_) => {}
                Message::Text(_) | Message::Close(_) => return,
            }
        }
    };
    tokio::select! {
        () = to_socket => {}
        () = from_socket => {}
    }
}
